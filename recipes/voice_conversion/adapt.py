"""Adapt a model to one new voice: its speaker vector and the decoder are tuned on a few minutes of its speech.

    python recipes/voice_conversion/adapt.py RECORDING_OR_FOLDER ... --name anna --out models/anna
    audiovq convert talk.wav --model models/anna --to anna -o out.wav

Encoder, pitch tracker and codebooks stay as they are, so codes, files and the other voices' vectors stay valid. The
recordings are encoded with other formants, as if other people spoke.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from audiovq import SpeechCodec
from audiovq.codec.signal import TARGET_DB, frame_levels
from audiovq.conversion.target import BundledVoice, TargetVoice, read_voices, voice_entry, write_voices
from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.media.waveform import READABLE, open_audio, resample
from audiovq.training.crops import SpectralAugmentation
from audiovq.training.losses import EnvelopeCorrelationLoss, SpectralLoss

CROP_FRAMES = 48
PHASE_FROM = 5
"""Codebooks from which on the phase is part of the loss."""
SHORTEST = 20.0


def find(places: list[Path]) -> list[Path]:
    """The recordings that are named, and those in folders that are named."""
    found = []
    for place in places:
        inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in READABLE) if place.is_dir() else [place]
        if not inside:
            raise AudioVQError(f"{place}: no recordings in this folder")
        found += inside
    return found


def load(path: Path, sample_rate: int) -> np.ndarray:
    """(T,) float32, all channels mixed."""
    with open_audio(path) as audio:
        samples = np.concatenate(list(audio.blocks(mono=True)))[:, 0]
        return resample(samples, audio.sample_rate, sample_rate)


class Crops:
    """Random stretches of one voice, as they are and as somebody else."""

    def __init__(self, samples: np.ndarray, length: int, seed: int) -> None:
        self.samples, self.length, self.rng = samples, length, np.random.default_rng(seed)
        self.augment = SpectralAugmentation(formant=1.25, eq_db=6.0)  # pitch stays: moved, phases would be unknown

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Recordings (B, 1, T), and the same with other formants, equalised and with some noise (B, 1, T)."""
        starts = self.rng.integers(0, len(self.samples) - self.length + 1, size)
        crops = torch.from_numpy(np.stack([self.samples[start : start + self.length] for start in starts]))
        changed = self.augment(crops, *self.augment.draw(size, crops.device))
        snr = torch.from_numpy(self.rng.uniform(25, 60, (size, 1))).float()
        noise = torch.randn_like(crops) * crops.square().mean(1, keepdim=True).sqrt() * 10 ** (-snr / 20)
        return crops[:, None], (changed + noise)[:, None]


def normalised(waveform: torch.Tensor, hop_length: int) -> torch.Tensor:
    """Waveforms (B, 1, T) at the level that the codec's networks work at."""
    loudest = frame_levels(waveform[:, 0], hop_length).amax(1)[:, None, None]
    return waveform * 10 ** ((TARGET_DB - loudest) / 20)


def tune(codec: SpeechCodec, samples: np.ndarray, vector: np.ndarray, steps: int, rate: float, batch: int) -> None:
    """Move the decoder's weights towards this voice, given its speaker vector (S,)."""
    codec.requires_grad_(False)
    parameters = list(codec.decoder.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(parameters, rate, (0.8, 0.99), weight_decay=0.0)
    spectral, envelope = SpectralLoss(), EnvelopeCorrelationLoss()
    crops = Crops(samples, CROP_FRAMES * codec.hop_length, seed=0)
    speaker = codec.speaker_encoder.decode(torch.from_numpy(vector)[None]).expand(batch, -1)
    losses: list[float] = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 20, (steps - step) / (0.4 * steps))
        target, changed = (normalised(one, codec.hop_length) for one in crops.batch(batch))
        # Any number of codebooks: conversion uses few of them and coding many.
        n_codebooks = int(torch.randint(1, codec.n_codebooks + 1, ()))
        with torch.no_grad():
            pitch = codec.pitch.track(changed)
            latents = codec.encoder(changed, codec.speaker_encoder(changed), codec.source(pitch))
            latents = codec.quantizer.decode(codec.quantizer.encode(latents, n_codebooks))
        decoded = codec.decoder(latents, pitch, speaker, torch.full((batch,), n_codebooks))
        phase = torch.arange(batch if n_codebooks >= PHASE_FROM else 0)
        terms = spectral(decoded[:, 0], target[:, 0], phase)
        loss = 1.5 * terms["mel"] + 4 * terms["magnitude"] + terms["complex"] + envelope(decoded, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 50 == 0 or step + 1 == steps:
            print(f"step {step + 1} of {steps}: loss {np.mean(losses[-50:]):.3f}", flush=True)
    codec.eval()


def adapt(codec: SpeechCodec, recordings: list[np.ndarray], name: str, options: argparse.Namespace) -> BundledVoice:
    """Tune the model and give the voice's entry for ``speakers.json``.

    Raises:
        AudioVQError: for too little speech.
    """
    voice = TargetVoice(codec, name)
    for samples in recordings:
        voice.add(samples)
        voice.finish_recording()
    for line in voice.warnings():
        print(f"warning: {line}", file=sys.stderr)
    if voice.seconds < SHORTEST:
        raise AudioVQError(
            f"{voice.seconds:.0f} s of speech are too little to adapt to: give at least {SHORTEST:.0f} s"
        )
    tune(codec, np.concatenate(recordings), voice.vector(), options.steps, options.rate, options.batch)
    languages = [options.language] if options.language else []
    return voice_entry(voice, name, languages, None, options.licence, "adapted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", type=Path, help="recordings of the voice, or folders of them")
    parser.add_argument("--name", required=True, help="what the voice is called")
    parser.add_argument("--out", required=True, type=Path, help="folder of the adapted model")
    parser.add_argument("--model", default=None, help="what to begin from; default: the bundled one")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--language", default=None)
    parser.add_argument("--licence", default="unknown")
    options = parser.parse_args()
    torch.manual_seed(0)
    codec = SpeechCodec.from_pretrained(options.model)
    known = read_voices(codec)
    recordings = [load(path, codec.sample_rate) for path in find(options.recordings)]
    voice = adapt(codec, recordings, options.name, options)
    save_weights(codec, options.out)
    # Read back: what is on disk is rounded to half precision, and the codes' hash is that of the files.
    codec = SpeechCodec.from_pretrained(options.out)
    write_voices(codec, [*(v for v in known.values() if v.name != voice.name), voice], options.out)
    print(f"{options.out}: audiovq convert IN --model {options.out} --to {voice.name} -o OUT")


if __name__ == "__main__":
    try:
        main()
    except AudioVQError as error:
        sys.exit(f"error: {error}")
