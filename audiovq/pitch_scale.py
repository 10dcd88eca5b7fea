"""The scale of coded pitch: 0 is an unvoiced frame, 1 to `N_VALUES` are quarter semitones upwards of `LOWEST_HZ`."""

from __future__ import annotations

import numpy as np

UNVOICED = 0
"""Pitch code of a frame without a fundamental."""
LOWEST_HZ = 50.0
"""Fundamental of pitch code 1."""
STEPS_PER_OCTAVE = 48
"""A step is a quarter of a semitone."""
N_VALUES = 176
"""Voiced pitch codes: 50 to 626 Hz."""
CERTAINTY = 0.85
"""Probability from which on a frame is coded as unvoiced. In doubt it gets a pitch: the decoder can turn harmonics down
where a pitch is given, but not make any where there is none (creaky voice, and where voicing begins and ends)."""


def hz_of(codes: np.ndarray) -> np.ndarray:
    """Pitch codes (any shape) -> fundamental frequency in Hz, float64; 0 where unvoiced."""
    codes = np.asarray(codes)
    return np.where(codes > UNVOICED, LOWEST_HZ * np.exp2((codes - 1.0) / STEPS_PER_OCTAVE), 0.0)


def pitch_of(logits: np.ndarray) -> np.ndarray:
    """Logits (F, N_VALUES + 1) -> pitch codes (F,) int64: unvoiced where that is more probable than
    `CERTAINTY`, else the most probable step."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    unvoiced = odds[:, 0] > CERTAINTY * odds.sum(axis=1)
    return np.where(unvoiced, UNVOICED, logits[:, 1:].argmax(axis=1) + 1)
