"""Dilated residual units, of which encoders and the parallel decoder are built."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Root-mean-square normalisation over channels, for channel-first tensors (Zhang and Sennrich 2019, eq. 4).

    Each position is scaled by itself, so that no information leaks along time and outputs do not depend on chunking.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        inverse = torch.rsqrt(x.float().square().mean(dim=1, keepdim=True) + self.eps)
        return x * inverse.to(x.dtype) * self.scale.to(x.dtype)[:, None]


class DilatedResidualUnit(nn.Module):
    """``x + conv1x1(act(film(conv_dilated(norm(x)))))``, with symmetric zero padding that keeps the length.

    With ``condition_dim`` the unit is modulated feature-wise by a vector (Perez et al. 2018, FiLM): a scale around one
    and a shift per channel, both without effect at the start of training.
    """

    def __init__(
        self, channels: int, kernel_size: int = 3, dilation: int = 1, condition_dim: int | None = None
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd to keep the length, got {kernel_size}")
        self.padding = dilation * (kernel_size // 2)
        self.norm = ChannelNorm(channels)
        self.dilated = nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=self.padding)
        self.mix = nn.Conv1d(channels, channels, 1)
        self.film = nn.Linear(condition_dim, 2 * channels) if condition_dim else None
        with torch.no_grad():
            # Near-identity units at the start: a deep stack then trains from the first step.
            self.mix.weight.mul_(0.3)
            if self.film is not None:
                self.film.weight.zero_()
                self.film.bias.zero_()

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, C, T), condition (B, S) -> (B, C, T)."""
        h = self.dilated(self.norm(x))
        if self.film is not None:
            if condition is None:
                raise ValueError("this unit is conditioned: give it a condition vector (B, S)")
            scale, shift = self.film(condition).to(h.dtype).unsqueeze(-1).chunk(2, dim=1)
            h = h + h * scale + shift
        return x + self.mix(F.silu(h))
