"""Fourth stage: samples to listen to and a picture to look at.

    python recipes/speech_generation/samples.py [--out DIR] [--model NAME|DIR] [--prior DIR] [--seed N]

Writes new speech in random voices, in a bundled voice, and three ways to go on from the first seconds of a recording;
and ``samples.png``, their spectrograms with the prompt's end marked.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiovq.conversion.target import read_voices
from audiovq.interfaces import EncodedSpeech
from audiovq.media.waveform import create_audio, open_audio, resample
from audiovq.prior.speech import SpeechPrior

HERE = Path(__file__).resolve().parent
RECORDING = HERE.parent / "demo" / "speech.flac"
PROMPT_SECONDS = 2.0


def read(path: Path, sample_rate: int, seconds: float) -> torch.Tensor:
    """The beginning of a recording: (T,) at that rate."""
    with open_audio(path) as audio:
        samples = np.concatenate(list(audio.blocks(mono=True)))[:, 0]
        samples = resample(samples, audio.sample_rate, sample_rate)
    return torch.from_numpy(samples[: round(seconds * sample_rate)].copy())


def draw_samples(source: SpeechPrior, seconds: float, **how: Any) -> dict[str, tuple[EncodedSpeech, float]]:
    """Coded samples by title, and where their prompt ends in seconds."""
    codec = source.codec
    found: dict[str, tuple[EncodedSpeech, float]] = {}

    def keep(title: str, encoded: EncodedSpeech, prompt: float = 0.0) -> None:
        for i in range(len(encoded.codes)):
            found[f"{title} {i + 1}" if len(encoded.codes) > 1 else title] = (encoded.item(i), prompt)

    keep("random voice", source.generate(seconds, 3, **how))
    voices = read_voices(codec)
    if voices:
        name = next(iter(voices))
        keep(f"voice {name}", source.generate(seconds, speaker=np.array(voices[name].vector), **how))
    prompt = codec.encode([read(RECORDING, codec.sample_rate, PROMPT_SECONDS)], n_codebooks=codec.n_codebooks)
    keep("continued", source.generate(seconds - PROMPT_SECONDS, 3, prompt=prompt, **how), PROMPT_SECONDS)
    return found


def draw_picture(
    waveforms: dict[str, tuple[np.ndarray, float]], sample_rate: int, path: Path, side_by_side: bool = False
) -> None:
    """Spectrograms, one above the other or side by side.

    Args:
        waveforms: (T,) by their titles, and the end of each one's prompt in seconds.
        sample_rate: in Hz.
        path: a name with the suffix of the picture's format.
        side_by_side: whether the waveforms are of one length.
    """
    from matplotlib.figure import Figure

    n = len(waveforms)
    figure = Figure(figsize=(4 * n, 3.2) if side_by_side else (9, 1.7 * n), layout="constrained")
    axes = list(figure.subplots(*((1, n) if side_by_side else (n, 1)), squeeze=False, sharey=side_by_side).flat)
    for axis, (title, (samples, prompt)) in zip(axes, waveforms.items(), strict=True):
        window = torch.hann_window(512)
        spectrum = torch.stft(torch.from_numpy(samples), 512, 128, window=window, return_complex=True).abs()
        level = 20 * torch.log10(spectrum + 1e-3)
        extent = (0, len(samples) / sample_rate, 0, sample_rate / 2000)
        axis.imshow(level.numpy(), origin="lower", aspect="auto", extent=extent, vmin=-50, vmax=40, cmap="magma")
        axis.set(title=title)
        if not side_by_side or axis is axes[0]:
            axis.set(ylabel="kHz")
        if prompt:
            axis.axvline(prompt, color="white", linestyle="--")
    figure.savefig(path, dpi=110 if side_by_side else 80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("generated"))
    parser.add_argument("--picture", type=Path, default=HERE / "samples.png")
    parser.add_argument("--model", help="the codec; default: the bundled speech model")
    parser.add_argument("--prior", help="the prior's folder; default: the codec's own")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--top-p", type=float)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = SpeechPrior.from_pretrained(options.model, options.prior)
    how = {"seed": options.seed, "temperature": options.temperature, "top_p": options.top_p}
    options.out.mkdir(parents=True, exist_ok=True)
    waveforms = {}
    for title, (encoded, prompt) in draw_samples(source, options.seconds, **how).items():
        samples = source.codec.decode(encoded)[0, 0].numpy()
        waveforms[title] = (samples, prompt)
        path = options.out / f"{title.replace(' ', '-')}.wav"
        with create_audio(path, source.codec.sample_rate, 1) as writer:
            writer.write(samples[:, None])
        print(path)
    draw_picture(waveforms, source.codec.sample_rate, options.picture)
    print(options.picture)


if __name__ == "__main__":
    main()
