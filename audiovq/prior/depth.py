"""The books of one frame, one after the other, coarse to fine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.nn.transformer import FeedForward, RootMeanSquareNorm


class DepthModel(nn.Module):
    """Book k of a frame from the backbone's output and the frame's books below k (the depth step of Lee et al. 2022).

    In a residual quantizer the sum of the coarser books' vectors is the latent as far as it is known, so the coarser
    books enter as a sum of learned vectors; small feed-forward layers do the rest, and no attention over eight places::

        h ---- into_k ---(+)-- x + ff(norm(x)) -- ... -- norm -- head_k --> logits of book k
        codes below k ----^  sum of their vectors

    Args:
        width: channels of the backbone's output.
        n_codebooks, codebook_size: of the codec.
        embedding_dim: of the codes' vectors.
        depth_width, hidden, n_layers: channels, channels inside the feed-forward layers, and their number.
    """

    def __init__(
        self,
        width: int,
        n_codebooks: int,
        codebook_size: int,
        embedding_dim: int,
        depth_width: int = 256,
        hidden: int = 512,
        n_layers: int = 2,
    ) -> None:
        super().__init__()
        self.n_codebooks, self.depth_width = n_codebooks, depth_width
        self.into = nn.Linear(width, n_codebooks * depth_width, bias=False)
        # Book j's vectors on their way into the sum; nobody comes after the last book.
        self.below = nn.Parameter(torch.randn(n_codebooks - 1, depth_width, embedding_dim) * embedding_dim**-0.5)
        self.norms = nn.ModuleList([RootMeanSquareNorm(depth_width) for _ in range(n_layers)])
        self.layers = nn.ModuleList([FeedForward(depth_width, hidden) for _ in range(n_layers)])
        self.norm = RootMeanSquareNorm(depth_width)
        self.heads = nn.Parameter(torch.randn(n_codebooks, codebook_size, depth_width) * 0.02)

    def refine(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D), what a head reads."""
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return self.norm(x)

    def forward(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """The backbone's output (N, C), vectors of the frame's codes (N, K, E) -> (N, K, D), what the heads read."""
        x = self.into(hidden).unflatten(-1, (self.n_codebooks, self.depth_width))
        known = torch.einsum("nke,kde->nkd", embedded[:, :-1], self.below.to(embedded.dtype))
        return self.refine(x + F.pad(known.cumsum(1), (0, 0, 1, 0)))

    def start(self, hidden: Tensor) -> Tensor:
        """(N, C) -> (N, K, D): every book's own view of the backbone's output."""
        return self.into(hidden).unflatten(-1, (self.n_codebooks, self.depth_width))

    def logits(self, x: Tensor, book: int) -> Tensor:
        """What a head reads (N, D) -> (N, V)."""
        return F.linear(x, self.heads[book])
