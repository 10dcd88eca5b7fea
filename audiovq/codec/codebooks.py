"""Latents to codes and codes to latents, from tables: what coding needs of a `SplitQuantizer` (NumPy alone)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from audiovq.errors import AudioVQError


@dataclass(frozen=True)
class Table:
    """One codebook.

    Attributes:
        search: (K, D) its vectors in the space in which the nearest is chosen.
        values: (K, C) the latents that they stand for.
        costs: (K,) added to the squared distance to each, or None.
        weight, bias: (D, C) and (D,) map from latents to the space of ``search``, or None for the same space.
        normalised: whether latents are scaled to the unit sphere before the search.
    """

    search: np.ndarray
    values: np.ndarray
    costs: np.ndarray | None = None
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    normalised: bool = False

    def nearest(self, rows: np.ndarray) -> np.ndarray:
        """Codes (F,) int64 of latents (F, C); of equal distances the lowest code."""
        if self.weight is not None:
            rows = rows @ self.weight.T + self.bias
        if self.normalised:
            rows = rows / np.maximum(np.sqrt(np.square(rows).sum(axis=1, keepdims=True)), 1e-12)
        # argmin |x - e|^2 = argmax e.x - |e|^2 / 2
        half = np.square(self.search).sum(axis=1) / 2
        if self.costs is not None:
            half = half + self.costs / 2
        return (rows @ self.search.T - half).argmax(axis=1)


class Codebooks:
    """The content codebook and the residual detail codebooks of a model, see `audiovq.quantize.split.SplitQuantizer`.

    Args:
        content: of the first channels of the latents.
        detail: of the others, coarse to fine.
        predict: (detail channels, content channels), the linear prediction that is taken off the detail latents.
    """

    def __init__(self, content: Table, detail: Sequence[Table], predict: np.ndarray) -> None:
        self.content, self.detail, self.predict = content, list(detail), predict
        self.size = len(content.search)

    def __len__(self) -> int:
        return 1 + len(self.detail)

    def encode(self, latents: np.ndarray, n_codebooks: int) -> np.ndarray:
        """Latents (C, F) float32 -> codes (n_codebooks, F) int64."""
        rows, width = latents.T, self.content.values.shape[1]
        codes = [self.content.nearest(np.ascontiguousarray(rows[:, :width]))]
        if n_codebooks > 1:
            residual = rows[:, width:] - self.content.values[codes[0]] @ self.predict.T
            value = np.zeros_like(residual)
            for table in self.detail[: n_codebooks - 1]:
                codes.append(table.nearest(residual - value))
                value += table.values[codes[-1]]
        return np.stack(codes)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes (K, F) -> latents (C, F) float32.

        Raises:
            AudioVQError: for codes that the model does not have.
        """
        if not 1 <= len(codes) <= len(self) or codes.min(initial=0) < 0 or codes.max(initial=0) >= self.size:
            raise AudioVQError(f"codes must be of 1 to {len(self)} codebooks, from 0 to {self.size - 1}")
        detail = np.zeros((codes.shape[1], len(self.predict)), np.float32)
        for table, chosen in zip(self.detail, codes[1:], strict=False):
            detail += table.values[chosen]
        return np.concatenate([self.content.values[codes[0]], detail], axis=1).T
