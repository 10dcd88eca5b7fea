"""Codes of a frame as vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CodeEmbedding(nn.Module):
    """A small vector for each code of each book. Backbone and depth model read them through matrices of their own.

    Each book has one row more than codes: it stands for a code that is not there, when fewer books are modelled.
    """

    def __init__(self, n_codebooks: int, codebook_size: int, dim: int) -> None:
        super().__init__()
        self.n_codebooks, self.codebook_size, self.dim = n_codebooks, codebook_size, dim
        self.vectors = nn.Parameter(torch.randn(n_codebooks, codebook_size + 1, dim))

    @property
    def absent(self) -> int:
        """The number that stands for no code."""
        return self.codebook_size

    def forward(self, codes: Tensor) -> Tensor:
        """(B, F, K) -> (B, F, K, E)."""
        books = torch.arange(self.n_codebooks, device=codes.device)
        return self.vectors[books, codes]
