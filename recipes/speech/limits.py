"""Where the loss of decoded speech is: PESQ and a recogniser's distance with one part of it taken from the original.

    python recipes/speech/limits.py [--model MODEL] [--codebooks 2,4,8] [--items 16]

Crops of 5 s of the packed validation corpus (real speech). Each row replaces one part of the decoded signal by the same
part of the original: a band, voiced or unvoiced frames, pauses, magnitudes or phases of the short-time spectrum, or its
envelope in mel bands. The row with the largest gain says what to train on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import librosa
import numpy as np
import torch
from pesq import pesq
from torch import Tensor

from audiovq.codec.codec import SpeechCodec
from audiovq.data.packed import FRAME, open_packed
from audiovq.data.whisper import WhisperEncoder, encoder_folder
from audiovq.hub import model_folder
from audiovq.training.crops import CropSampler

RATE, LAYERS = 16000, 6
BANDS = ((0, 100), (100, 250), (250, 500), (0, 500), (500, 1000), (1000, 2000), (2000, 4000), (4000, 8001))


def spectrum(waveform: Tensor, n_fft: int) -> Tensor:
    return torch.stft(waveform, n_fft, n_fft // 4, window=torch.hann_window(n_fft), return_complex=True)


def waveform_of(spectra: Tensor, n_fft: int, length: int) -> Tensor:
    return torch.istft(spectra, n_fft, n_fft // 4, window=torch.hann_window(n_fft), length=length)


def with_envelope(decoded: Tensor, original: Tensor, n_fft: int, bands: int) -> Tensor:
    """Decoded spectra (B, bins, frames) with the original's power in every mel band."""
    mel = torch.from_numpy(librosa.filters.mel(sr=RATE, n_fft=n_fft, n_mels=bands, norm=None))
    powers = [(mel / mel.sum(1, keepdim=True)) @ part.abs().square() + 1e-7 for part in (original, decoded)]
    gain = 0.5 * torch.log(powers[0] / powers[1])
    return decoded * torch.exp(torch.einsum("mf,bmt->bft", mel / mel.sum(0).clamp_min(1e-9), gain))


def versions(original: Tensor, decoded: Tensor, voiced: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Names and waveforms (B, T); ``voiced`` (B, T) bool."""
    length = original.shape[1]
    yield "as decoded", decoded
    a, b = spectrum(original, 1024), spectrum(decoded, 1024)
    hz = torch.arange(a.shape[1]) * RATE / 1024
    for low, high in BANDS:
        inside = ((hz >= low) & (hz < high))[:, None]
        yield f"original from {low} to {high} Hz", waveform_of(torch.where(inside, a, b), 1024, length)
    yield "original in voiced frames", torch.where(voiced, original, decoded)
    yield "original in unvoiced frames", torch.where(voiced, decoded, original)
    power = original.view(len(original), -1, FRAME).square().mean(2)
    pauses = (power < power.amax(1, keepdim=True) * 10**-3.5).repeat_interleave(FRAME, 1)
    yield "original in pauses", torch.where(pauses, original, decoded)
    a, b = spectrum(original, 512), spectrum(decoded, 512)
    yield "original magnitudes", waveform_of(torch.polar(a.abs(), b.angle()), 512, length)
    yield "original phases", waveform_of(torch.polar(b.abs(), a.angle()), 512, length)
    for bands in (20, 40):
        yield f"original envelope in {bands} bands", waveform_of(with_envelope(b, a, 512, bands), 512, length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a bundled model, a run or a folder")
    parser.add_argument("--codebooks", default="2,4,8")
    parser.add_argument("--items", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    codec = SpeechCodec.from_pretrained(model_folder(arguments.model))
    sampler = CropSampler(open_packed(None)[1], 250, 100, synthetic_share=0.0)
    batch = sampler.draw(arguments.items, np.random.default_rng(3), augmented=False)
    original = batch.source
    listener = WhisperEncoder.load(encoder_folder("the distance by Whisper's encoder"))
    with torch.no_grad():
        states = listener(original, LAYERS)
        voiced = (codec.pitch.track(original[:, None]) > 0).repeat_interleave(FRAME, 1)
        speaker = codec.speaker_encoder(batch.source_other[:, None])
        for n in map(int, arguments.codebooks.split(",")):
            print(f"\n{n} codebooks{'':24}PESQ  Whisper's distance")
            decoded = codec(original[:, None], speaker, n_codebooks=n).waveform[:, 0]
            for name, waveform in versions(original, decoded, voiced):
                score = np.mean(
                    [pesq(RATE, x, y, "wb") for x, y in zip(original.numpy(), waveform.numpy(), strict=True)]
                )
                pairs = list(zip(listener(waveform, LAYERS), states, strict=True))[1::2]
                distance = sum(float((x - y).abs().mean() / y.abs().mean()) for x, y in pairs) / len(pairs)
                print(f"{name:34} {score:6.3f} {distance:6.3f}")


if __name__ == "__main__":
    main()
