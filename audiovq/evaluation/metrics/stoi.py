"""Short-time objective intelligibility."""

from __future__ import annotations

import warnings

import numpy as np

from audiovq.evaluation.metrics.base import Metric
from audiovq.evaluation.pair import SAMPLE_RATE, Pair
from audiovq.evaluation.statistics import Score
from audiovq.optional import need


class STOI(Metric):
    """STOI, about 0 to 1 (Taal, Hendriks, Heusdens, Jensen, 2011), by the package `pystoi`.

    It compares envelopes over 384 ms and finds no delay: both sides must be aligned.
    """

    name, label, higher_is_better, decimals = "stoi", "STOI", True, 3

    def __init__(self) -> None:
        self._stoi = need("pystoi", "STOI").stoi

    def score(self, pair: Pair) -> Score | None:
        """None where less than 384 ms of the reference is speech."""
        if not np.any(pair.reference):
            return None
        with warnings.catch_warnings():
            # pystoi warns and then returns 1e-5, which would pull a mean down as if it were a score.
            warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
            try:
                value = self._stoi(pair.reference, pair.degraded, SAMPLE_RATE)
            except (RuntimeWarning, ValueError, np.exceptions.AxisError):
                return None
        return Score(float(value))
