"""What conversion should keep, the melody, and what it should change, the register."""

from __future__ import annotations

import numpy as np

from audiovq.speech.pitch import median_pitch, semitones

FEWEST = 30
"""Frames (of 10 ms) voiced on both sides that a correlation wants."""


def melody_correlation(source: np.ndarray, converted: np.ndarray) -> float | None:
    """Pearson's correlation of log F0 over the frames that are voiced in both pitch tracks (N,) (see `track_pitch`).

    None where that is under 0.3 s, or one side has a single pitch.
    """
    n = min(len(source), len(converted))
    both = (source[:n] > 0) & (converted[:n] > 0)
    if both.sum() < FEWEST:
        return None
    a, b = np.log(source[:n][both]), np.log(converted[:n][both])
    if a.std() < 1e-6 or b.std() < 1e-6:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def register_distance(pitch: np.ndarray, target_hz: float | None) -> float | None:
    """Semitones between the median of a pitch track (N,) and a target's; None where either has too little voice."""
    own = median_pitch(pitch)
    return None if own is None or target_hz is None else abs(semitones(own / target_hz))
