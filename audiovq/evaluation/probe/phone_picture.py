"""What the first book's codes stand for, as a picture."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from audiovq.evaluation.probe.alignment import CLASSES
from audiovq.evaluation.probe.phones import says

PIXELS = 128
"""Rows and columns of the picture of transitions, at most."""


def order(counts: np.ndarray) -> np.ndarray:
    """Codes in use, (n,), sorted by the phone they stand for and then by how purely: counts (size, classes)."""
    used = np.flatnonzero(counts.sum(axis=1))
    purity = counts[used].max(axis=1) / counts[used].sum(axis=1)
    return used[np.lexsort((-purity, says(counts)[used]))]


def summed(counts: np.ndarray, n: int) -> np.ndarray:
    """Sums over squares of ``n`` rows and columns; the last may be smaller: (N, N) -> (ceil(N / n),) * 2."""
    starts = np.arange(0, len(counts), n)
    return np.add.reduceat(np.add.reduceat(counts, starts, axis=0), starts, axis=1)


def draw_codes(matrix: Any, steps: Any, counts: np.ndarray, transitions: np.ndarray) -> None:
    """Fill two axes: which phones each code goes with, and which code follows which, in the same order of codes.

    Shares of each row are drawn by their square roots, so that rare ones show.
    """
    codes = order(counts)
    shares = counts[codes] / counts[codes].sum(axis=1, keepdims=True)
    matrix.imshow(np.sqrt(shares), aspect="auto", interpolation="nearest", cmap="magma", vmin=0, vmax=1)
    matrix.set_xticks(np.arange(len(CLASSES)), CLASSES, fontsize=6, rotation=90)
    matrix.set(ylabel="codes, by their phone", title="phones that a code of book 1 goes with")
    # A thousand codes follow each other too rarely for one pixel each: neighbours of the order are taken together.
    follow = summed(transitions[np.ix_(codes, codes)], -(-len(codes) // PIXELS))
    follow = follow / np.maximum(follow.sum(axis=1, keepdims=True), 1)
    edge = len(codes) - 0.5
    extent = (-0.5, edge, edge, -0.5)
    steps.imshow(np.sqrt(follow), interpolation="nearest", cmap="magma", vmin=0, vmax=0.6, extent=extent)
    steps.set(xlabel="next code", ylabel="code", title="which code follows which, in that order")
    stands = says(counts)[codes]
    firsts = np.flatnonzero(np.r_[True, stands[1:] != stands[:-1]])
    edges = np.r_[firsts, len(codes)]
    wide = [(a, b) for a, b in pairwise(edges) if b - a >= len(codes) / 60]
    names = [CLASSES[stands[a]] for a, _ in wide]
    middles = [(a + b - 1) / 2 for a, b in wide]
    for axis in (matrix.yaxis, steps.yaxis, steps.xaxis):
        axis.set_ticks(middles, names, fontsize=6)
