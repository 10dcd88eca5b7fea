"""A decoder-only transformer over a sequence of vectors: rotary attention over a sliding window, and feed-forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotary_table(positions: Tensor, dim: int, base: float = 10000.0) -> Tensor:
    """Cosines and sines of rotary positions (Su et al. 2021): positions (T,) -> (2, T, dim / 2) float32.

    The angles are computed in float64: float32 has too few digits for long recordings.
    """
    frequencies = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = positions.double().cpu()[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()]).float().to(positions.device)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs (i, i + D / 2) of x (..., T, D) by the table (2, T, D / 2)."""
    cos, sin = table.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


@dataclass
class KeyValueCache:
    """Ring buffer of the keys and values of the last ``window`` steps: step t is stored at ``t % window``.

    Their order does not matter to attention, because keys carry their positions.

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
        n_groups: heads of keys and values, each shared by ``n_heads / n_groups`` query heads (grouped-query attention,
            Ainslie et al. 2023): the cache, which every step reads in full, is smaller by this factor.
        window: steps attended to, the current one included.

    Raises:
        ValueError: for numbers of channels, heads and groups that do not divide.
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
        """(B, T, C) -> rotated queries (B, H, T, D), rotated keys and values (B, G, T, D)."""
        heads = self.project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        queries, keys, values = heads.split([self.n_heads, self.n_groups, self.n_groups], dim=1)
        return rotate(queries, table), rotate(keys, table), values

    def share(self, x: Tensor) -> Tensor:
        """(B, G, T, D) -> (B, H, T, D): each group's keys or values for all of its query heads."""
        return x.repeat_interleave(self.n_heads // self.n_groups, dim=1)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(B, T, C), table from `rotary_table` -> (B, T, C)."""
        queries, keys, values = self.split(x, table)
        position = torch.arange(x.shape[1], device=x.device)
        distance = position[:, None] - position
        mask = (distance >= 0) & (distance < self.window)
        out = F.scaled_dot_product_attention(queries, self.share(keys), self.share(values), attn_mask=mask)
        return self.mix(out.transpose(1, 2).flatten(2))

    def start(self, batch: int, like: Tensor) -> KeyValueCache:
        """An empty cache for ``batch`` sequences, with the device and type of ``like``."""
        shape = (batch, self.n_groups, self.window, self.head_dim)
        return KeyValueCache(like.new_zeros(shape), like.new_zeros(shape))

    def step(self, x: Tensor, table: Tensor, cache: KeyValueCache) -> Tensor:
        """One step (B, C), table (2, 1, D / 2) of its position -> (B, C); adds its keys and values to the cache."""
        queries, keys, values = self.split(x[:, None], table)
        slot = cache.length % self.window
        cache.keys[:, :, slot], cache.values[:, :, slot] = keys[:, :, 0], values[:, :, 0]
        cache.length += 1
        n = min(cache.length, self.window)
        out = F.scaled_dot_product_attention(
            queries, self.share(cache.keys[:, :, :n]), self.share(cache.values[:, :, :n])
        )
        return self.mix(out.transpose(1, 2).flatten(1))


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
    """``expand``, squared ReLU (So et al. 2021), ``reduce`` on (..., C); zero at the start of training.

    The squared ReLU needs no exponential, so that the cost of a step is that of its matrix products.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden, bias=False)
        self.reduce = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.reduce.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(F.relu(self.expand(x)).square())


class TransformerBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``."""

    def __init__(self, width: int, n_heads: int, n_groups: int, window: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = RootMeanSquareNorm(width)
        self.attention = CausalSelfAttention(width, n_heads, n_groups, window)
        self.feed_forward_norm = RootMeanSquareNorm(width)
        self.feed_forward = FeedForward(width, hidden)
        self.dropout = dropout

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.drop(self.attention(self.attention_norm(x), table))
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)))

    def step(self, x: Tensor, table: Tensor, cache: KeyValueCache) -> Tensor:
        """(B, C) -> (B, C)."""
        x = x + self.attention.step(self.attention_norm(x), table, cache)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nn.Module):
    """A causal stack of blocks: output t depends on at most the last ``L * (window - 1) + 1`` inputs up to t.

    Args:
        width: channels.
        n_layers: number of blocks L.
        n_heads, n_groups, window: of `CausalSelfAttention`.
        hidden: channels inside the feed-forward branches.
        dropout: of both branches of every block in training.
    """

    def __init__(
        self,
        width: int,
        n_layers: int,
        n_heads: int,
        n_groups: int,
        window: int,
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = hidden or 4 * width
        self.head_dim = width // n_heads
        self.blocks = nn.ModuleList(
            [TransformerBlock(width, n_heads, n_groups, window, hidden, dropout) for _ in range(n_layers)]
        )
        self.norm = RootMeanSquareNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        table = rotary_table(torch.arange(x.shape[1], device=x.device), self.head_dim)
        for block in self.blocks:
            x = block(x, table)
        return self.norm(x)

    def start(self, batch: int, like: Tensor) -> list[KeyValueCache]:
        """The state of ``batch`` sequences before the first step, with the device and type of ``like``."""
        return [block.attention.start(batch, like) for block in self.blocks]  # type: ignore[union-attr, operator]

    def step(self, x: Tensor, state: list[KeyValueCache]) -> Tensor:
        """The next input (B, C) -> its output (B, C), equal to that of `forward`."""
        table = rotary_table(torch.tensor([state[0].length], device=x.device), self.head_dim)
        for block, cache in zip(self.blocks, state, strict=True):
            x = block.step(x, table, cache)  # type: ignore[operator]
        return self.norm(x)
