"""Pitch moved in the time domain: stretched by overlap-add of similar waveforms, then resampled."""

from __future__ import annotations

from functools import partial

import numpy as np

from audiovq import processor
from audiovq.data.utterance import SAMPLE_RATE

_WINDOW, _TOLERANCE = 512, 160  # 32 ms, two periods of low voices; 10 ms either way to find a place that fits


def shift_by_overlap(samples: np.ndarray, ratio: float) -> np.ndarray:
    """(T,) -> (T,): all frequencies times ``ratio``, timing kept within 10 ms (WSOLA, Verhelst and Roelands 1993).

    Formants move along; what lies above 8 kHz is cut off.
    """
    samples = np.ascontiguousarray(samples, np.float32)
    stretched = np.zeros(round(len(samples) * ratio) + 2 * _WINDOW, np.float32)
    if len(samples):
        margin = _WINDOW + _TOLERANCE
        _stretch(np.pad(samples, margin), margin, ratio, stretched)
    out = resample(stretched[_WINDOW:], ratio)[: len(samples)]
    return np.pad(out, (0, len(samples) - len(out)))


def resample(samples: np.ndarray, ratio: float) -> np.ndarray:
    """(T,) -> about (T / ratio,): played ``ratio`` times as fast."""
    import soxr

    return soxr.resample(samples, SAMPLE_RATE * ratio, SAMPLE_RATE, quality="MQ")


@partial(processor.compiled, (__file__,), fastmath={"reassoc", "contract", "nsz"})
def _stretch(padded: np.ndarray, margin: int, ratio: float, out: np.ndarray) -> None:  # pragma: no cover
    """Write grains half a window apart; each is taken where it best continues the one before."""
    half = _WINDOW // 2
    rise = np.empty(half, np.float32)
    for i in range(half):
        rise[i] = 0.5 - 0.5 * np.cos(np.pi * (i + 0.5) / half)
    # ``out`` begins one window early, so that the first grain may start before the samples do.
    before = margin - _WINDOW
    for k in range((len(out) - _WINDOW) // half + 1):
        due = margin + round((k * half - _WINDOW) / ratio + half / ratio - half)
        due = min(max(due, _TOLERANCE), len(padded) - _WINDOW - _TOLERANCE)
        place = due
        if k > 0:
            follow = min(before + half, len(padded) - half)
            best = -1e30
            for step in (4, 1):
                low, high = (-_TOLERANCE, _TOLERANCE) if step == 4 else (place - due - 3, place - due + 3)
                for lag in range(max(low, -_TOLERANCE), min(high, _TOLERANCE) + 1, step):
                    product, power = np.float32(0), np.float32(1e-6)
                    start = due + lag
                    for i in range(0, half, 2):
                        product += padded[follow + i] * padded[start + i]
                        power += padded[start + i] * padded[start + i]
                    score = product / np.sqrt(power)
                    if score > best:
                        best, place = score, start
        for i in range(half):
            out[k * half + i] += rise[i] * padded[place + i]
            out[k * half + half + i] += rise[half - 1 - i] * padded[place + half + i]
        before = place
