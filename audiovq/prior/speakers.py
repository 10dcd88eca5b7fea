"""The distribution of speaker vectors that random speakers are sampled from (NumPy alone)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class SpeakerDistribution:
    """A Gaussian kernel around the mean vector of each training speaker.

    Kernels share one covariance: that between speakers, scaled by Scott's rule (Scott 1992), along its leading
    directions only. A few speakers, far fewer than dimensions squared, do not determine the others.

    Args:
        means: (N, S) float32, in integer levels.
        weights: (N,) float32, summing to 1.
        factor: (S, R) float32; a kernel's noise is ``factor @ normal(R)``.
        spread: (S,) float32, deviation within a speaker's recordings.
        levels: number of levels of each value.
        loudness: (N,) float32, mean level code of each speaker's packets.
    """

    def __init__(
        self,
        means: np.ndarray,
        weights: np.ndarray,
        factor: np.ndarray,
        spread: np.ndarray,
        levels: int,
        loudness: np.ndarray,
    ) -> None:
        self.means, self.weights, self.factor, self.spread = means, weights, factor, spread
        self.levels, self.loudness = levels, loudness

    @classmethod
    def fit(
        cls,
        vectors: np.ndarray,
        speakers: Sequence[str],
        seconds: np.ndarray,
        levels: int,
        loudness: np.ndarray,
        min_seconds: float = 20.0,
    ) -> SpeakerDistribution:
        """Fit to the vectors (N, S) of recordings; speakers with less than ``min_seconds`` of speech are left out.

        Args:
            vectors: in integer levels.
            speakers: name of each recording's speaker.
            seconds: (N,), duration of each recording.
            levels: number of levels of each value.
            loudness: (N,), mean level code of each recording.
            min_seconds: of a speaker's recordings together.

        Raises:
            ValueError: without recordings.
        """
        names = np.asarray(speakers)
        totals = {name: float(seconds[names == name].sum()) for name in sorted(set(speakers))}
        kept = [name for name, total in totals.items() if total >= min_seconds] or list(totals)
        if not kept:
            raise ValueError("there are no recordings")
        rows = vectors.astype(np.float64)
        means = np.stack([np.average(rows[names == n], axis=0, weights=seconds[names == n]) for n in kept])
        inside = [rows[names == n] - mean for n, mean in zip(kept, means, strict=True)]
        spread = np.sqrt(np.concatenate(inside).var(axis=0))
        n, dim = means.shape
        centred = means - means.mean(0)
        _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
        energy = np.cumsum(sizes**2) / max(float(np.sum(sizes**2)), 1e-12)
        rank = min(int(np.searchsorted(energy, 0.9)) + 1, len(sizes))
        bandwidth = n ** (-1 / (rank + 4))
        factor = bandwidth * directions[:rank].T * (sizes[:rank] / np.sqrt(max(n - 1, 1)))
        weights = np.sqrt([totals[name] for name in kept])  # much speech makes a speaker only a little likelier
        parts = (means, weights / weights.sum(), factor.reshape(dim, -1), spread)
        means, weights, factor, spread = (np.ascontiguousarray(part, np.float32) for part in parts)
        loud = np.array([np.average(loudness[names == n], weights=seconds[names == n]) for n in kept], np.float32)
        return cls(means, weights, factor, spread, levels, loud)

    def level_of(self, vector: np.ndarray) -> int:
        """Level code of a speaker (S,): that of the nearest training speaker."""
        return round(float(self.loudness[np.square(self.means - vector).sum(1).argmin()]))

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A random speaker vector, (S,) int64 in ``[0, levels)``."""
        mean = self.means[
            rng.choice(len(self.means), p=self.weights.astype(np.float64) / self.weights.sum(dtype=float))
        ]
        value = mean + self.factor @ rng.standard_normal(self.factor.shape[1])
        return np.clip(np.round(value), 0, self.levels - 1).astype(np.int64)

    def tensors(self) -> dict[str, np.ndarray]:
        """The parameters by name, for a file of weights."""
        return {
            "means": self.means,
            "weights": self.weights,
            "factor": self.factor,
            "spread": self.spread,
            "levels": np.array([self.levels], np.float32),
            "loudness": self.loudness,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> SpeakerDistribution:
        """The inverse of `tensors`."""
        names = ("means", "weights", "factor", "spread", "loudness")
        named = {name: np.ascontiguousarray(tensors[name], np.float32) for name in names}
        return cls(**named, levels=int(tensors["levels"][0]))
