"""What the choices of a WaveNet cost: a step for every sample, for several at once, or for sub-bands.

    python benchmarks/wavenet_designs.py [--json] [--rounds 3]

For each choice: audio-seconds that training by teacher forcing takes in a second (bfloat16, crops of 0.96 s, backbone
included), multiplications of the stack for a second of audio, and how many times real time one stream is drawn
(float32, backbone not included). Weights and waveforms are random, one thread; medians of ``--rounds``. Choices are
variants of ``configs/wavenet/bands.yaml``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SAMPLE_RATE, HOP, LATENT, SPEAKER = 16000, 320, 64, 32
CROP_FRAMES, BATCH = 48, 4
DRAWN_SECONDS = 0.5
FULL = ["wavenet=bands", "wavenet.n_bands=1", "wavenet.band_gains=null"]
CHOICES: dict[str, list[str]] = {
    "every sample, 20 x 64": [*FULL, "wavenet.taps=16"],
    "2 samples, 20 x 64": [*FULL, "wavenet.samples_per_step=2", "wavenet.taps=4"],
    "4 samples, 20 x 64": [*FULL, "wavenet.samples_per_step=4", "wavenet.taps=4"],
    "4 bands (bands), 20 x 64": ["wavenet=bands"],
    "4 bands, 20 x 96": ["wavenet=bands", "wavenet.stack.channels=96"],
    "4 bands, 16 x 128": ["wavenet=bands", "wavenet.stack.channels=128", "wavenet.stack.n_layers=16"],
}


def make_decoder(overrides: list[str]) -> Any:
    """A decoder with random weights, as ``configs/wavenet`` has it."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from audiovq.speech.wavenet import WaveNetDecoder

    with initialize_config_dir(str(Path(__file__).resolve().parents[1] / "configs"), version_base=None):
        config = compose("train", overrides=["experiment=wavenet_debian", *overrides])
    torch.manual_seed(0)
    settings: Any = OmegaConf.to_container(config.wavenet, resolve=True)
    return WaveNetDecoder(LATENT, SPEAKER, HOP, **settings)


def seconds_of(function: Callable[[], object], rounds: int) -> float:
    """The median of some calls, after one that warms up."""
    function()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def training_rate(decoder: Any, rounds: int) -> float:
    """Audio-seconds a second."""
    waveform = 0.1 * torch.randn(BATCH, 1, CROP_FRAMES * HOP)
    latents, speaker = torch.randn(BATCH, LATENT, CROP_FRAMES), torch.randn(BATCH, SPEAKER)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = decoder(waveform, latents, speaker).mean()
        loss.backward()
        decoder.zero_grad(set_to_none=True)

    return BATCH * CROP_FRAMES * HOP / SAMPLE_RATE / seconds_of(step, rounds)


def drawing_rate(decoder: Any, rounds: int) -> float:
    """Times real time."""
    from audiovq.wavenet.sampler import Noise, WaveNetSampler

    decoder.eval()
    frames = round(DRAWN_SECONDS * SAMPLE_RATE / HOP)
    sampler = WaveNetSampler(decoder)
    with torch.inference_mode():
        condition = decoder.condition(torch.randn(1, LATENT, frames), torch.randn(1, SPEAKER))
        noise = Noise(sampler).at(0, condition.shape[-1] * decoder.hold)
        return DRAWN_SECONDS / seconds_of(lambda: sampler.sample(condition, noise), rounds)


def multiplications(decoder: Any) -> float:
    """Of the stack for a second of audio: each weight of it once in a step."""
    weights = sum(p.numel() for name, p in decoder.stack.named_parameters() if p.dim() > 1 and "condition" not in name)
    return weights * SAMPLE_RATE / (decoder.n_bands * decoder.samples_per_step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name, overrides in CHOICES.items():
        decoder = make_decoder(overrides)
        results[name] = {
            "training_audio_seconds_per_second": training_rate(decoder, options.rounds),
            "giga_multiplications_per_second_of_audio": multiplications(decoder) / 1e9,
            "drawing_times_real_time": drawing_rate(decoder, options.rounds),
        }
        if not options.json:
            print(f"{name:30}" + "".join(f"{value:10.2f}" for value in results[name].values()), flush=True)
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
