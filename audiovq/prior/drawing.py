"""One code from a row of logits."""

from __future__ import annotations

from functools import partial

import numpy as np

from audiovq import processor
from audiovq.prior import vectors
from audiovq.prior.vectors import LANES, exponential


@partial(processor.compiled, (__file__, vectors.__file__))
def draw(logits: np.ndarray, uniform: float, temperature: float, top_k: int, top_p: float) -> int:
    """The code at ``uniform`` of the distribution's cumulative sum: the same number gives the same code.

    Args:
        logits: (V,) float32.
        uniform: in [0, 1).
        temperature: logits are divided by it; 0 takes the likeliest code.
        top_k: only so many likeliest codes (and those as likely as the last of them); 0 for all.
        top_p: only the likeliest codes that together reach this probability (Holtzman et al. 2020); 1 for all.
    """
    n = len(logits)
    best = 0
    for i in range(1, n):
        if logits[i] > logits[best]:
            best = i
    if temperature <= 0:
        return best
    weights = np.zeros((n + LANES - 1) // LANES * LANES, np.float32)
    inverse = np.float32(1 / temperature)
    for i in range(n):
        weights[i] = (logits[i] - logits[best]) * inverse
    for i in range(0, n, LANES):
        exponential(weights.ctypes.data, i)  # type: ignore[call-arg]
    least = np.float32(0)
    if 0 < top_k < n or top_p < 1:
        ordered = np.sort(weights[:n])
        if 0 < top_k < n:
            least = ordered[n - top_k]
        if top_p < 1:
            total = 0.0
            for i in range(n):
                if ordered[i] >= least:
                    total += ordered[i]
            reached, place = 0.0, n
            while place > 0 and reached < top_p * total:
                place -= 1
                reached += ordered[place]
            least = max(least, ordered[min(place, n - 1)])
    total = 0.0
    for i in range(n):
        if weights[i] >= least:
            total += weights[i]
    left = uniform * total
    last = best
    for i in range(n):
        if weights[i] >= least and weights[i] > 0:
            last = i
            left -= weights[i]
            if left < 0:
                return i
    return last
