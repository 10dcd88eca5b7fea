"""Causal self-attention with rotary positions over a sliding window, whole or step by step with a cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotary_table(positions: Tensor, dim: int, base: float = 10000.0) -> Tensor:
    """Cosines and sines of rotary positions (Su et al. 2021): positions (T,) -> (2, T, dim / 2) float32.

    The angles are computed in float64: in float32 they would lose their place in long recordings.
    """
    frequencies = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = positions.double().cpu()[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()]).float().to(positions.device)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn the pairs (i, i + D / 2) of x (..., T, D) by the table (2, T, D / 2)."""
    cos, sin = table.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


@dataclass
class KeyValueCache:
    """Keys and values of the last ``window`` steps, as a ring: step t lies at ``t % window``.

    Attention does not mind the order, since keys carry their positions.

    Attributes:
        keys, values: (B, G, W, D).
        length: steps seen so far.
    """

    keys: Tensor
    values: Tensor
    length: int = 0


class CausalSelfAttention(nn.Module):
    """Step t attends to steps ``t - window + 1`` to t.

    Args:
        width: channels.
        n_heads: query heads.
        n_groups: heads of keys and values, each shared by ``n_heads / n_groups`` query heads (Ainslie et al. 2023): a
            cache that many times smaller, which is what a batch of streams reads at every step.
        window: steps seen, the current one included.
    """

    def __init__(self, width: int, n_heads: int, n_groups: int, window: int) -> None:
        super().__init__()
        if width % n_heads or n_heads % n_groups or width // n_heads % 2:
            raise ValueError(f"{width} channels do not split into {n_heads} heads in {n_groups} groups")
        self.n_heads, self.n_groups, self.window = n_heads, n_groups, window
        self.head_dim = width // n_heads
        self.project = nn.Linear(width, (n_heads + 2 * n_groups) * self.head_dim, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.mix.weight)

    def split(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> turned queries (B, H, T, D), turned keys and values (B, G, T, D)."""
        heads = self.project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        queries, keys, values = heads.split([self.n_heads, self.n_groups, self.n_groups], dim=1)
        return rotate(queries, table), rotate(keys, table), values

    def share(self, x: Tensor) -> Tensor:
        """(B, G, T, D) -> (B, H, T, D)."""
        return x.repeat_interleave(self.n_heads // self.n_groups, dim=1)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(B, T, C), table from `rotary_table` -> (B, T, C)."""
        queries, keys, values = self.split(x, table)
        place = torch.arange(x.shape[1], device=x.device)
        distance = place[:, None] - place
        seen = (distance >= 0) & (distance < self.window)
        out = F.scaled_dot_product_attention(queries, self.share(keys), self.share(values), attn_mask=seen)
        return self.mix(out.transpose(1, 2).flatten(2))

    def start(self, batch: int, like: Tensor) -> KeyValueCache:
        """An empty cache with the device and type of ``like``."""
        shape = (batch, self.n_groups, self.window, self.head_dim)
        return KeyValueCache(like.new_zeros(shape), like.new_zeros(shape))

    def step(self, x: Tensor, table: Tensor, cache: KeyValueCache) -> Tensor:
        """One step (B, C), table (2, 1, D / 2) of its position -> (B, C); the cache grows by it."""
        queries, keys, values = self.split(x[:, None], table)
        place = cache.length % self.window
        cache.keys[:, :, place], cache.values[:, :, place] = keys[:, :, 0], values[:, :, 0]
        cache.length += 1
        n = min(cache.length, self.window)
        out = F.scaled_dot_product_attention(
            queries, self.share(cache.keys[:, :, :n]), self.share(cache.values[:, :, :n])
        )
        return self.mix(out.transpose(1, 2).flatten(1))
