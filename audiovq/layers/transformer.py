"""A decoder-only transformer over a sequence of vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.layers.attention import CausalSelfAttention, KeyValueCache, rotary_table
from audiovq.layers.feedforward import FeedForward, RootMeanSquareNorm


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


@dataclass
class TransformerState:
    """What a stack remembers between steps: a cache for each block, and the position to come."""

    caches: list[KeyValueCache]
    position: int = 0


class Transformer(nn.Module):
    """Causal: output t depends on inputs 0 to t, through L blocks on at most the last ``L * (window - 1) + 1``.

    Args:
        width: channels.
        n_layers: blocks.
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

    def start(self, batch: int, like: Tensor) -> TransformerState:
        """The state before the first step."""
        return TransformerState([block.attention.start(batch, like) for block in self.blocks])  # type: ignore[union-attr, operator]

    def step(self, x: Tensor, state: TransformerState) -> Tensor:
        """The next input (B, C) -> its output (B, C), the same as `forward` gives there."""
        table = rotary_table(torch.tensor([state.position], device=x.device), self.head_dim)
        for block, cache in zip(self.blocks, state.caches, strict=True):
            x = block.step(x, table, cache)  # type: ignore[operator]
        state.position += 1
        return self.norm(x)
