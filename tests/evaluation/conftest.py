"""Something like a voice, and utterances of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest


@cache
def voice(seconds: float, pitch: float = 120.0, seed: int = 0) -> np.ndarray:
    """(T,) float32 at 16 kHz: a buzz with a moving pitch, in syllables of random strength, with a little noise."""
    draw = np.random.default_rng(seed)
    t = np.arange(round(seconds * 16000)) / 16000
    phase = np.cumsum(2 * np.pi * (pitch + 0.2 * pitch * np.sin(2 * np.pi * 0.7 * t)) / 16000)
    buzz = sum(np.sin(k * phase) / k for k in range(1, 30))
    strength = np.interp(t, np.arange(0, seconds + 0.2, 0.1), draw.uniform(0, 1, len(np.arange(0, seconds + 0.2, 0.1))))
    samples = 0.1 * strength**2 * buzz + 0.001 * draw.standard_normal(len(t))
    return samples.astype(np.float32)


def noisy(samples: np.ndarray, level: float) -> np.ndarray:
    noise = np.random.default_rng(7).standard_normal(len(samples)).astype(np.float32)
    return samples + level * noise


@dataclass
class FakeUtterance:
    id: str
    speaker: str
    language: str
    text: str | None
    samples: np.ndarray
    group: str | None = None
    phones: None = None

    @property
    def seconds(self) -> float:
        return len(self.samples) / 16000

    def load(self) -> np.ndarray:
        return self.samples


def fake_utterances(speaker: str, lengths: list[float], language: str = "xx", text: str | None = None) -> list:
    return [
        FakeUtterance(f"{speaker}-{i:02d}", speaker, language, text, voice(seconds, seed=i % 4))
        for i, seconds in enumerate(lengths)
    ]


@pytest.fixture(scope="session")
def clean() -> np.ndarray:
    return voice(4.0)
