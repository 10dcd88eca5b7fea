"""Means and how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """One metric on one pair: its value, and how much it weighs in the mean (words of a text; else 1)."""

    value: float
    weight: float = 1.0


@dataclass(frozen=True)
class Mean:
    """A weighted mean; ``ci95`` is half the width of its 95 % confidence interval, None for fewer than two scores."""

    mean: float
    ci95: float | None
    n: int


def mean_of(scores: Sequence[Score]) -> Mean | None:
    """The weighted mean ``sum(w x) / sum(w)`` with Student's interval; None when there is nothing to average.

    The variance is that of a ratio estimator (Cochran, Sampling Techniques, 1977, section 6.4),
    ``n / (n - 1) * sum(w^2 (x - mean)^2) / sum(w)^2``, which for equal weights is the usual ``s^2 / n``. Pairs are
    taken as independent, so the interval speaks of other recordings of these speakers, not of other speakers.
    """
    weights = np.array([score.weight for score in scores], dtype=np.float64)
    if not len(weights) or weights.sum() <= 0:
        return None
    values = np.array([score.value for score in scores], dtype=np.float64)
    mean = float(np.average(values, weights=weights))
    n = len(values)
    if n < 2:
        return Mean(mean, None, n)
    from scipy.stats import t

    variance = n / (n - 1) * np.sum((weights * (values - mean)) ** 2) / weights.sum() ** 2
    return Mean(mean, float(t.ppf(0.975, n - 1) * np.sqrt(variance)), n)
