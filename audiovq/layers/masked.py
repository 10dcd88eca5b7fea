"""Masked convolutions without a blind spot (van den Oord et al. 2016, "Conditional PixelCNN", section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gate(x: Tensor) -> Tensor:
    """tanh of one half of the channels times the sigmoid of the other (eq. 2 there)."""
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedLayer(nn.Module):
    """A vertical stack that sees the rows above, a horizontal one that sees the row to its left, and gates.

    The vertical stack at (y, x) reads rows up to y of its input, which holds rows above y only after the first layer's
    shift; the horizontal stack at (y, x) reads columns up to x of its own input in row y, which the first layer shifts
    to columns before x, and the vertical stack. Thus nothing depends on a later pixel and nothing before is unseen.

    Args:
        channels: of both stacks.
        kernel: rows and columns of the vertical stack see ``kernel`` wide windows, an odd number.
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
        """Both stacks (B, C, H, W); what the gates of each are told (B, 2C, H or 1, W or 1) -> both stacks."""
        reach = self.kernel // 2
        rows = self.vertical(F.pad(v, (reach, reach, reach, 0)))
        cells = self.horizontal(F.pad(h, (reach, 0))) + self.across(rows)
        return gate(rows + condition[0]), h + self.out(gate(cells + condition[1]))


@dataclass
class LayerCache:
    """The input of a layer's vertical stack so far (B, C, H, W), zero where nothing was computed yet."""

    v: Tensor


def vertical_row(layer: GatedLayer, cache: LayerCache, y: int, told: Tensor) -> tuple[Tensor, Tensor]:
    """Row y of the vertical stack, given its input up to that row.

    Returns what the horizontal stack reads of it (B, 2C, 1, W), and the stack's output (B, C, 1, W).
    """
    reach = layer.kernel // 2
    window = cache.v[:, :, max(y - reach, 0) : y + 1]
    rows = layer.vertical(F.pad(window, (reach, reach, reach + 1 - window.shape[2], 0)))
    return layer.across(rows), gate(rows + told)
