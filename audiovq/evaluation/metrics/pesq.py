"""Perceptual evaluation of speech quality, wide-band."""

from __future__ import annotations

import numpy as np

from audiovq.evaluation.metrics.base import Metric
from audiovq.evaluation.pair import SAMPLE_RATE, Pair
from audiovq.evaluation.statistics import Score
from audiovq.optional import need

LOWEST = 1.04
"""The worst MOS-LQO the mapping of P.862.2 gives (for a raw score of -0.5)."""


class PESQ(Metric):
    """PESQ-WB as MOS-LQO, 1.04 to 4.64 (ITU-T P.862 with P.862.2), by the package `pesq`.

    It finds the delay itself. It was made for telephone codecs: what remakes the waveform's phase is rated harshly.
    """

    name, label, higher_is_better, decimals = "pesq", "PESQ-WB", True, 2

    def __init__(self) -> None:
        self._pesq = need("pesq", "PESQ")

    def score(self, pair: Pair) -> Score | None:
        """None where PESQ finds no speech in the reference, or less than its quarter of a second."""
        value = self._rate(pair.reference, pair.degraded)
        if value is None:  # was there nothing to say, or has coding lost it?
            value = None if self._rate(pair.reference, pair.reference) is None else LOWEST
        return None if value is None else Score(value)

    def _rate(self, reference: np.ndarray, degraded: np.ndarray) -> float | None:
        if not np.any(reference) or not np.any(degraded):
            return None
        try:
            value = float(self._pesq.pesq(SAMPLE_RATE, reference, degraded, "wb"))
        except (self._pesq.NoUtterancesError, self._pesq.BufferTooShortError):
            return None
        return value if np.isfinite(value) else None
