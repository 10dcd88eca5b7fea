"""Speech is distinguished from silence, noise and narrow bands, and trimmed with a margin."""

from __future__ import annotations

import numpy as np
import pytest
import soxr

from recipes.debian_speech.cleaning import measure
from recipes.debian_speech.preparation import Limits, fault
from tests.data.conftest import voice

LIMITS = Limits()


def reason(samples: np.ndarray, rate: int = 16000) -> str | None:
    measures = measure(samples)
    return fault(measures, (measures.stop - measures.start) / 16000, rate, LIMITS)


def surrounded(samples: np.ndarray, before: float, after: float, noise: float = 1e-4) -> np.ndarray:
    out = np.pad(samples, (round(before * 16000), round(after * 16000)))
    return (out + noise * np.random.default_rng(0).standard_normal(len(out))).astype(np.float32)


@pytest.mark.parametrize("pitch", [80, 130, 250])
@pytest.mark.parametrize("level", [0.02, 0.9])
def test_speech_is_kept(pitch, level):
    assert reason(surrounded(voice(1.5, pitch=pitch, level=level), 0.3, 0.3)) is None


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.0), (0.5, 0.05), (0.03, 1.0)])
def test_ends_are_trimmed_to_the_margin(before, after):
    samples = surrounded(voice(1.0), before, after)
    measures = measure(samples, margin=0.1)
    assert abs(measures.start - 16000 * max(before - 0.1, 0)) < 500
    assert abs(measures.stop - (len(samples) - 16000 * max(after - 0.1, 0))) < 500


def test_a_pause_inside_stays():
    samples = np.concatenate([surrounded(voice(0.5), 0.4, 0.4), surrounded(voice(0.5), 0.4, 0.4)])
    measures = measure(samples)
    assert measures.stop - measures.start > 1.9 * 16000
    assert measures.active < 1.2


def test_other_sounds_than_speech_are_reported(rng):
    noise = (0.1 * rng.standard_normal(16000) * (np.arange(16000) % 8000 > 4000)).astype(np.float32)
    assert reason(np.zeros(16000, np.float32)) == "silent"
    assert reason(surrounded(0.001 * voice(1.0), 0.2, 0.2, 1e-6)) == "silent"
    assert reason(surrounded(voice(0.08), 0.0, 0.0)) in ("silent", "too short")
    assert reason(noise) == "no voice"
    assert reason(voice(1.0), rate=8000) == "recorded under 16 kHz"
    assert reason(np.zeros(0, np.float32)) == "silent"


def test_telephone_speech_converted_up_is_reported():
    narrow = soxr.resample(soxr.resample(surrounded(voice(1.5), 0.2, 0.2), 16000, 8000), 8000, 16000)
    assert reason(narrow.astype(np.float32)) == "narrow band"
