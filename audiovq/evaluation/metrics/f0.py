"""Fundamental frequency: tracks by Praat, and what can be compared of two of them."""

from __future__ import annotations

import numpy as np

from audiovq.errors import need
from audiovq.evaluation.protocol import SAMPLE_RATE, Metric, Pair
from audiovq.evaluation.stats import Score

FRAME_SECONDS = 0.01
FLOOR, CEILING = 60.0, 500.0
"""Range of the search in Hz."""
FEWEST_FOR_MEDIAN, FEWEST_FOR_CORRELATION = 20, 30
"""Voiced frames, of 10 ms, below which a figure means nothing."""
_HOP = round(FRAME_SECONDS * SAMPLE_RATE)
# Praat's window is three periods of the floor and its frames are centred in the recording: with this much silence at
# either end, frame i is centred on sample 160 i. The half hop guards against rounding.
_PADDING = round(1.5 / FLOOR * SAMPLE_RATE) + _HOP // 4


def track_f0(samples: np.ndarray) -> np.ndarray:
    """F0 in Hz every 10 ms, 0 where unvoiced: (T,) at 16 kHz -> (ceil(T / 160),).

    By autocorrelation (Boersma 1993), in Praat's own implementation with its default thresholds.

    Raises:
        AudioVQError: when the package praat-parselmouth is not installed.
    """
    parselmouth = need("parselmouth", "F0")
    n_frames = -(-len(samples) // _HOP)
    if not np.any(samples):
        return np.zeros(n_frames)
    padded = np.zeros((n_frames - 1) * _HOP + 2 * _PADDING)
    padded[_PADDING : _PADDING + len(samples)] = samples[: len(padded) - _PADDING]
    sound = parselmouth.Sound(padded, SAMPLE_RATE)
    return sound.to_pitch_ac(FRAME_SECONDS, FLOOR, pitch_ceiling=CEILING).selected_array["frequency"]


def median_f0(track: np.ndarray) -> float | None:
    """Median of a track's voiced frames in Hz; None where fewer than 0.2 s are voiced."""
    voiced = track[track > 0]
    return float(np.median(voiced)) if len(voiced) >= FEWEST_FOR_MEDIAN else None


def median_distance(track: np.ndarray, hz: float | None) -> float | None:
    """Semitones between a track's median and ``hz``; None where either has too few voiced frames."""
    median = median_f0(track)
    return None if median is None or hz is None else float(abs(12 * np.log2(median / hz)))


def f0_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Pearson's correlation of log F0 over the frames voiced in both tracks (N,).

    None where these are under 0.3 s, or one side is constant.
    """
    n = min(len(first), len(second))
    both = (first[:n] > 0) & (second[:n] > 0)
    if both.sum() < FEWEST_FOR_CORRELATION:
        return None
    a, b = np.log(first[:n][both]), np.log(second[:n][both])
    if a.std() < 1e-6 or b.std() < 1e-6:
        return None
    return float(np.corrcoef(a, b)[0, 1])


class F0Error(Metric):
    """Mean absolute difference of F0 in semitones, over the frames voiced on both sides."""

    name, label, higher_is_better, decimals = "f0", "F0 error st", False, 2

    def __init__(self) -> None:
        need("parselmouth", "F0")

    def score(self, pair: Pair) -> Score | None:
        """None without a frame voiced on both sides; weighs by such frames."""
        reference, degraded = track_f0(pair.reference), track_f0(pair.degraded)
        both = (reference > 0) & (degraded > 0)
        if not both.any():
            return None
        return Score(float(np.abs(12 * np.log2(degraded[both] / reference[both])).mean()), int(both.sum()))


class VoicingError(Metric):
    """Share of frames, in percent, that are voiced on one side only."""

    name, label, higher_is_better, decimals = "voicing", "voicing error %", False, 1

    def __init__(self) -> None:
        need("parselmouth", "F0")

    def score(self, pair: Pair) -> Score | None:
        """None for a reference without a voiced frame; weighs by frames."""
        reference, degraded = track_f0(pair.reference), track_f0(pair.degraded)
        if not reference.any():
            return None
        return Score(float(100 * ((reference > 0) != (degraded > 0)).mean()), len(reference))
