"""Tiles on a fixed grid, each with the surroundings that its codes depend on, for images of any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """A rectangle of an image, in pixels.

    Attributes:
        top, left, bottom, right: edges of the rectangle.
        around: edges, in the same order, of the larger rectangle that it is computed from.
    """

    top: int
    left: int
    bottom: int
    right: int
    around: tuple[int, int, int, int]

    def cut(self, x: Tensor, stride: int = 1) -> Tensor:
        """(..., H / stride, W / stride) -> the part that the tile is computed from."""
        top, left, bottom, right = (edge // stride for edge in self.around)
        return x[..., top:bottom, left:right]

    def paste(self, target: Tensor, part: Tensor, stride: int = 1) -> None:
        """Copy the tile from ``part``, the result for the larger rectangle, into the whole image ``target``."""
        top, left, bottom, right = (edge // stride for edge in (self.top, self.left, self.bottom, self.right))
        y, x = top - self.around[0] // stride, left - self.around[1] // stride
        target[..., top:bottom, left:right] = part[..., y : y + bottom - top, x : x + right - left]


def tiles(height: int, width: int, size: int, halo: int) -> Iterator[Tile]:
    """Tiles of ``size`` pixels, row by row, with a margin of ``halo`` pixels that ends at the edges of the image."""
    for top in range(0, height, size):
        for left in range(0, width, size):
            bottom, right = min(top + size, height), min(left + size, width)
            around = (max(top - halo, 0), max(left - halo, 0), min(bottom + halo, height), min(right + halo, width))
            yield Tile(top, left, bottom, right, around)
