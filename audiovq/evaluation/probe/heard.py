"""Stretches of the main voices as a codec hears them: codes, and latents before and after quantization."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiovq.evaluation.progress import Progress, silent
from audiovq.evaluation.stretches import Stretch, choose, join

if TYPE_CHECKING:
    from audiovq.data.utterance import Utterance
    from audiovq.speech.codec import SpeechCodec

SECONDS = 3.0
MAIN_MINUTES = 5.0
"""Voices with more training speech than this are probed for."""


@dataclass(frozen=True)
class Heard:
    """One stretch.

    Attributes:
        speaker, language: who speaks what.
        codes: (K, F) int64.
        latents: (C, F) before quantization.
        quantized: by the number of books in use, mean and deviation over time of the quantized latents, (2C,) each.
        mel: mean and deviation over time of the log mel spectrum: what plain signal processing hears.
    """

    speaker: str
    language: str
    codes: np.ndarray
    latents: np.ndarray
    quantized: dict[int, np.ndarray]
    mel: np.ndarray


def main_voices(train: Sequence[Utterance]) -> list[str]:
    """Speakers with more than `MAIN_MINUTES` of training speech."""
    seconds: dict[str, float] = defaultdict(float)
    for utterance in train:
        seconds[utterance.speaker] += utterance.seconds
    return sorted(speaker for speaker, total in seconds.items() if total > 60 * MAIN_MINUTES)


def stretches_of(utterances: Sequence[Utterance], voices: Sequence[str], limit: int) -> list[Stretch]:
    """At most ``limit`` stretches of some 3 s (0: all) of each voice."""
    taken = []
    for voice in voices:
        taken += choose(join([u for u in utterances if u.speaker == voice], SECONDS), limit)
    return taken


def listen(
    codec: SpeechCodec, stretches: Sequence[Stretch], progress: Progress = silent, what: str = "coding"
) -> list[Heard]:
    """Code every stretch, as one piece: without a file's packets."""
    import torch

    heard = []
    with torch.inference_mode():
        for done, stretch in enumerate(stretches):
            progress(what, done, len(stretches))
            samples = stretch.load()
            samples = samples[: len(samples) - len(samples) % codec.hop_length]
            latents = codec.encoder(torch.from_numpy(samples)[None, None])
            codes = codec.quantizer.encode(latents)
            quantized = {
                k: moments(codec.quantizer.decode(codes[:, :k])[0].numpy()) for k in range(1, codec.n_codebooks + 1)
            }
            heard.append(
                Heard(
                    stretch.speaker,
                    stretch.language,
                    codes[0].numpy(),
                    latents[0].numpy(),
                    quantized,
                    moments(log_mel(samples)),
                )
            )
    return heard


def moments(x: np.ndarray) -> np.ndarray:
    """Mean and deviation over time: (C, F) -> (2C,)."""
    return np.concatenate([x.mean(axis=1), x.std(axis=1)])


def log_mel(samples: np.ndarray) -> np.ndarray:
    """(T,) -> log mel spectrum (80, frames), 20 ms apart."""
    import librosa

    mel = librosa.feature.melspectrogram(y=samples, sr=16000, n_fft=640, hop_length=320, n_mels=80)
    return np.log(mel + 1e-6)


def histogram(codes: np.ndarray, size: int) -> np.ndarray:
    """Square roots of how often each code occurs: (F,) -> (size,), of length 1."""
    return np.sqrt(np.bincount(codes, minlength=size) / len(codes))
