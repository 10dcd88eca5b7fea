"""Sampling from a `PixelPrior` code by code, computing only what a new code changes.

A row of the vertical stacks is computed when the row begins, one cell of the horizontal stacks for each place. The
horizontal stacks look at their own row only, so that a cell is a few products of small matrices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.nn.gated_pixelcnn import LayerCache, vertical_row

if TYPE_CHECKING:
    from audiovq.prior.pixel import CausalAttention2d, PixelPrior


class AttentionCache:
    """Keys and values of the cells so far."""

    def __init__(self, attention: CausalAttention2d, n: int, cells: int) -> None:
        channels = attention.query.weight.shape[0]
        self.query, self.keys, self.out = (
            m.weight[:, :, 0, 0] for m in (attention.query, attention.keys, attention.out)
        )
        self.place = attention.place[0].flatten(1).t()  # (cells, C)
        self.n_heads = attention.n_heads
        self.cache = torch.zeros(2, n, attention.n_heads, cells, channels // attention.n_heads)

    def cell(self, h: Tensor, index: int) -> Tensor:
        """The cell's input (n, C) -> its output (n, C); the cell is kept."""
        placed = h + self.place[index]
        both = F.linear(placed, self.keys).view(len(h), 2, self.n_heads, -1)
        self.cache[:, :, :, index] = both.transpose(0, 1)
        key, value = self.cache[:, :, :, : index + 1]
        query = F.linear(placed, self.query).view(len(h), self.n_heads, 1, -1)
        seen = F.scaled_dot_product_attention(query, key, value)
        return h + F.linear(seen.flatten(1), self.out)


class PixelStepper:
    """What sampling remembers.

    Args:
        prior: the model.
        n: fields drawn at once.
        condition: arguments of `PixelPrior.condition`.
    """

    def __init__(self, prior: PixelPrior, n: int, condition: dict[str, Any]) -> None:
        self.prior, self.n = prior, n
        height, width = prior.size
        self.told = [
            tuple(part.expand(n, -1, height, width) for part in pair) for pair in prior.condition(n, **condition)
        ]
        self.embedded = torch.zeros(n, prior.channels, height, width)
        self.layers: list[Any] = list(prior.layers)
        self.v = [LayerCache(torch.zeros_like(self.embedded)) for _ in self.layers]
        self.first = _by_place(prior.first_h.weight)
        self.across_weights = [_by_place(layer.horizontal.weight) for layer in self.layers]
        self.out = [layer.out.weight[:, :, 0, 0].t().contiguous() for layer in self.layers]
        self.reach = prior.first_h.kernel_size[1] - 1
        self.attention = {
            int(name): AttentionCache(module, n, height * width)  # type: ignore[arg-type]
            for name, module in prior.attention.items()
        }
        self.heads = [[(head[i].weight[:, :, 0, 0], head[i].bias) for i in (1, 3)] for head in prior.heads]  # type: ignore[index, union-attr]

    def begin_row(self, y: int) -> None:
        """Bring the vertical stacks to row y, and forget the last row of the horizontal ones."""
        prior, reach = self.prior, self.prior.first_v.kernel_size[1] // 2
        above = self.embedded[:, :, max(y - reach - 1, 0) : y]
        v = prior.first_v(F.pad(above, (reach, reach, reach + 1 - above.shape[2], 0)))
        self.base = [_cells(prior.first_across(v) + prior.first_h.bias[:, None, None])]  # type: ignore[index]
        for layer, cache, told in zip(self.layers, self.v, self.told, strict=True):
            cache.v[:, :, y : y + 1] = v
            across, v = vertical_row(layer, cache, y, told[0][:, :, y : y + 1])
            bias = layer.horizontal.bias[:, None, None]
            self.base.append(_cells(across + told[1][:, :, y : y + 1] + bias))
        width, channels = prior.size[1], prior.channels
        self.row = torch.zeros(width + self.reach + 1, self.n, channels)
        self.h = torch.zeros(len(self.layers), width + self.reach, self.n, channels)

    def cell(self, y: int, x: int) -> Tensor:
        """The horizontal stack at (y, x), (n, C)."""
        channels = self.prior.channels
        left = self.row[x : x + self.reach + 1].transpose(0, 1).flatten(1)
        h = torch.addmm(self.base[0][x], left, self.first)
        for i, own in enumerate(self.h):
            own[x + self.reach] = h
            seen = own[x : x + self.reach + 1].transpose(0, 1).flatten(1)
            gates = torch.addmm(self.base[i + 1][x], seen, self.across_weights[i])
            h = torch.addmm(h, torch.tanh(gates[:, :channels]) * torch.sigmoid(gates[:, channels:]), self.out[i])
            if i in self.attention:
                h = self.attention[i].cell(h, y * self.prior.size[1] + x)
        return h

    def logits(self, h: Tensor, book: int) -> Tensor:
        """(n, C) -> (n, V)."""
        for weight, bias in self.heads[book]:
            h = F.linear(F.relu(h), weight, bias)
        return h

    def put(self, y: int, x: int, codes: Tensor) -> None:
        """Take in the codes (n, K) of a cell."""
        embedded = self.prior.embed(codes[:, :, None, None])[:, :, 0, 0]
        self.embedded[:, :, y, x] = embedded
        self.row[x + self.reach + 1] = embedded


def _by_place(weight: Tensor) -> Tensor:
    """A 1 x k convolution's weight (out, in, 1, k) -> (k * in, out), to be multiplied by k cells side by side."""
    return weight[:, :, 0].permute(2, 1, 0).flatten(0, 1).contiguous()


def _cells(row: Tensor) -> Tensor:
    """(n, C, 1, W) -> (W, n, C)."""
    return row[:, :, 0].permute(2, 0, 1).contiguous()
