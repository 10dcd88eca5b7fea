"""How late is a codec?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from audiovq.evaluation.pair import SAMPLE_RATE

STEP = SAMPLE_RATE // 1000
"""Samples between the delays that are tried: 1 ms."""


def _envelopes(samples: np.ndarray, length: int) -> np.ndarray:
    """(T,) -> (3, length): roots of the energy in three bands every millisecond, smoothed over 8, with no mean."""
    n_fft = 128  # 8 ms
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, (n_fft // 2, n_fft // 2)), n_fft)[::STEP]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(n_fft).astype(np.float32), axis=1))  # bins of 125 Hz
    bands = np.stack([spectrum[:, low:high].mean(axis=1) for low, high in ((1, 6), (6, 16), (16, 28))])
    bands = np.sqrt(bands)
    bands -= bands.mean(axis=1, keepdims=True)
    return np.pad(bands, ((0, 0), (0, max(0, length - bands.shape[1]))))[:, :length]


def common_delay(references: Sequence[np.ndarray], degraded: Sequence[np.ndarray], most: float = 0.1) -> int:
    """Samples by which the degraded recordings are late, all by the same, to 1 ms (negative: early).

    Envelopes of three bands up to 3.5 kHz are correlated, not samples: many codecs remake the phase. One delay for all,
    since a codec's delay is one of its constants and a recording of its own might mislead.

    Args:
        references, degraded: recordings (T,) at 16 kHz, one to one.
        most: seconds of delay to look for, either way.
    """
    n_lags = round(most * 1000)
    total = np.zeros(2 * n_lags + 1)
    for reference, late in zip(references, degraded, strict=True):
        length = min(len(reference), len(late)) // STEP
        if length < 2 * n_lags:
            continue
        a, b = _envelopes(reference, length), _envelopes(late, length)
        size = 2 * length
        correlation = np.fft.irfft(np.conj(np.fft.rfft(a, size)) * np.fft.rfft(b, size), size).sum(axis=0)
        norm = np.sqrt((a**2).sum() * (b**2).sum())
        if norm > 0:
            total += np.concatenate([correlation[-n_lags:], correlation[: n_lags + 1]]) / norm
    if not np.any(total):
        return 0
    return (int(np.argmax(total)) - n_lags) * STEP


def shift(samples: np.ndarray, delay: int, length: int) -> np.ndarray:
    """``samples`` with ``delay`` taken out, exactly ``length`` of them (zeros where there are none)."""
    start = samples[max(delay, 0) :]
    start = np.concatenate([np.zeros(max(-delay, 0), dtype=samples.dtype), start])[:length]
    return np.pad(start, (0, length - len(start)))
