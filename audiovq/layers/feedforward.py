"""Residual branches without memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RootMeanSquareNorm(nn.Module):
    """Root-mean-square normalisation of the last dimension, in float32 (Zhang and Sennrich 2019, eq. 4)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return F.rms_norm(x.float(), self.scale.shape, self.scale, self.eps).to(x.dtype)


class FeedForward(nn.Module):
    """``expand``, squared rectifier (So et al. 2021), ``reduce``; on (..., C), without effect at the start of training.

    The squared rectifier needs no exponential, so that a step is weights and little else.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden, bias=False)
        self.reduce = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.reduce.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(F.relu(self.expand(x)).square())
