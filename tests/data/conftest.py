"""Small recordings made by the tests themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.data.utterance import Utterance


class ArrayReader:
    """Samples in memory as an utterance's reader."""

    def __init__(self, samples: np.ndarray) -> None:
        self.samples = samples

    def read(self, start: int, n_samples: int | None) -> np.ndarray:
        return self.samples[start : None if n_samples is None else start + n_samples].copy()


def make_utterance(
    samples: np.ndarray, id: str = "a", speaker: str = "s", split: str = "train", language: str = "en"
) -> Utterance:
    samples = samples.astype(np.float32)
    return Utterance(
        id, speaker, language, None, "test", "CC0-1.0", split, len(samples) / 16000, reader=ArrayReader(samples)
    )


def voice(seconds: float, rate: int = 16000, pitch: float = 120.0, level: float = 0.3, seed: int = 0) -> np.ndarray:
    """Something voiced over the whole band: a pulse train with jumping loudness and a little noise, (T,) float32."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    harmonics = np.arange(1, int(min(rate / 2, 7000) / pitch), dtype=np.float32)
    phase = np.outer(harmonics, (2 * np.pi * pitch) * time.astype(np.float32)) + (harmonics**2)[:, None]
    waves = np.cos(phase, dtype=np.float32).T @ (1 / np.sqrt(harmonics))
    syllables = 0.2 + 0.8 * (np.sin(2 * np.pi * 3 * time) > -0.3)
    samples = waves * syllables + 0.01 * rng.standard_normal(len(time))
    return (level * samples / np.abs(samples).max()).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 16000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
