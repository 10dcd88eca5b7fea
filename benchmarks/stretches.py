"""The WaveNet decoder in stretches side by side against one stream: seconds of audio per second of processor time.

    python benchmarks/stretches.py --wavenet bands draft --json stretches.json

Networks are untrained, in the sizes of ``configs/wavenet``, on the bundled codec; one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from audiovq.interfaces import Packet
from audiovq.speech.codec import SpeechCodec
from audiovq.speech.wavenet import WaveNetDecoder
from audiovq.wavenet.sampler import WaveNetSampler

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "wavenet"


def make(codec: SpeechCodec, name: str) -> WaveNetDecoder:
    """An untrained network of a configuration."""
    from omegaconf import OmegaConf

    settings = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    sizes = codec.encoder.latent_dim, codec.speaker_encoder.dim, codec.hop_length
    return WaveNetDecoder(*sizes, **settings).eval()


def speed(codec: SpeechCodec, n_streams: int, seconds: float) -> float:
    """Decode random codes as they arrive, packet by packet."""
    codec.wavenet_streams = n_streams
    n_frames = round(seconds * codec.frame_rate)
    codes = np.random.default_rng(0).integers(0, codec.codebook_size, (codec.default_n_codebooks, n_frames))
    stream = codec.decoder_stream(np.zeros(32, np.int64), "wavenet")
    start = time.process_time()
    for first in range(0, n_frames, codec.packet_frames):
        stream.push(Packet(codes[:, first : first + codec.packet_frames]))
    stream.finish(n_frames * codec.hop_length)
    return seconds / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wavenet", nargs="+", default=["bands", "draft"], help="of configs/wavenet")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=66.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    codec = SpeechCodec.from_pretrained()
    results: dict[str, dict[int, float]] = {}
    for name in options.wavenet:
        net = make(codec, name)
        codec._wavenet = net, WaveNetSampler(net)
        speed(codec, 1, 2.0)  # compiles
        results[name] = {n: round(speed(codec, n, options.seconds), 2) for n in options.streams}
        cells = ", ".join(
            f"{n} at a time: {value:.1f} s ({value / results[name][options.streams[0]]:.2f} times)"
            for n, value in results[name].items()
        )
        print(f"{name}: {cells}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
