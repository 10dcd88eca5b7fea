"""Means of scores and their confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t


@dataclass(frozen=True)
class Score:
    """A metric's value for one item, and the item's weight in the mean (words of a text; else 1)."""

    value: float
    weight: float = 1.0


@dataclass(frozen=True)
class Mean:
    """A weighted mean; ``ci95`` is half the width of its 95 % confidence interval, None for fewer than two scores."""

    mean: float
    ci95: float | None
    n: int

    def text(self, decimals: int, factor: float = 1.0) -> str:
        """``mean ±ci95`` with so many decimals, both multiplied by ``factor``."""
        interval = "" if self.ci95 is None else f" ±{factor * self.ci95:.{decimals}f}"
        return f"{factor * self.mean:.{decimals}f}{interval}"


def mean_of(scores: Sequence[Score]) -> Mean | None:
    """The weighted mean ``sum(w x) / sum(w)`` with Student's interval; None when there is nothing to average.

    The variance is that of a ratio estimator (Cochran, Sampling Techniques, 1977, section 6.4),
    ``n / (n - 1) * sum(w^2 (x - mean)^2) / sum(w)^2``, which for equal weights is the usual ``s^2 / n``. Items are
    taken as independent, so the interval is about other recordings of these speakers, not about other speakers.
    """
    weights = np.array([score.weight for score in scores], dtype=np.float64)
    if not len(weights) or weights.sum() <= 0:
        return None
    values = np.array([score.value for score in scores], dtype=np.float64)
    mean, n = float(np.average(values, weights=weights)), len(values)
    if n < 2:
        return Mean(mean, None, n)
    variance = n / (n - 1) * np.sum((weights * (values - mean)) ** 2) / weights.sum() ** 2
    return Mean(mean, float(t.ppf(0.975, n - 1) * np.sqrt(variance)), n)
