"""Gated PixelCNN layers: causal 2-D convolutions without a blind spot (van den Oord et al. 2016b, section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gate(x: Tensor) -> Tensor:
    """Gated activation: tanh of one half of the channels times the sigmoid of the other (ibid., eq. 2)."""
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedLayer(nn.Module):
    """A vertical stack over the rows above and a horizontal stack over the row to the left, both gated.

    The vertical stack at (y, x) reads rows up to y of its input, which holds rows above y only after the first layer's
    shift; the horizontal stack at (y, x) reads columns up to x of its own input in row y, which the first layer shifts
    to columns before x, and the vertical stack. Thus a position depends on all earlier ones and on no later one.

    Args:
        channels: of both stacks.
        kernel: width of the convolutions, odd; the vertical stack reads ``kernel // 2 + 1`` rows of it.
    """

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.kernel = kernel
        self.vertical = nn.Conv2d(channels, 2 * channels, (kernel // 2 + 1, kernel))
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.horizontal = nn.Conv2d(channels, 2 * channels, (1, kernel // 2 + 1))
        self.out = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, v: Tensor, h: Tensor, condition: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Both stacks (B, C, H, W); conditions added in the gates of each (B, 2C, H or 1, W or 1) -> both stacks."""
        reach = self.kernel // 2
        rows = self.vertical(F.pad(v, (reach, reach, reach, 0)))
        cells = self.horizontal(F.pad(h, (reach, 0))) + self.across(rows)
        return gate(rows + condition[0]), h + self.out(gate(cells + condition[1]))


@dataclass
class LayerCache:
    """The input of a layer's vertical stack so far (B, C, H, W), zero where nothing was computed yet."""

    v: Tensor


def vertical_row(layer: GatedLayer, cache: LayerCache, y: int, condition: Tensor) -> tuple[Tensor, Tensor]:
    """Row y of the vertical stack, given its input up to that row and the row's condition (B, 2C, 1, W).

    Returns the horizontal stack's input from it (B, 2C, 1, W), and the stack's output (B, C, 1, W).
    """
    reach = layer.kernel // 2
    window = cache.v[:, :, max(y - reach, 0) : y + 1]
    rows = layer.vertical(F.pad(window, (reach, reach, reach + 1 - window.shape[2], 0)))
    return layer.across(rows), gate(rows + condition)
