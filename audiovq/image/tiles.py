"""Pictures larger than memory allows at once: tiles on a fixed grid, each with the surroundings it needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """A piece of a picture: the rectangle it fills, and the larger one that is looked at for it (pixels)."""

    top: int
    left: int
    bottom: int
    right: int
    around: tuple[int, int, int, int]

    def cut(self, x: Tensor, stride: int = 1) -> Tensor:
        """(..., H / stride, W / stride) -> what is looked at."""
        top, left, bottom, right = (edge // stride for edge in self.around)
        return x[..., top:bottom, left:right]

    def paste(self, target: Tensor, found: Tensor, stride: int = 1) -> None:
        """Put the tile's part of ``found``, which covers what was looked at, into the whole."""
        top, left, bottom, right = (edge // stride for edge in (self.top, self.left, self.bottom, self.right))
        y, x = top - self.around[0] // stride, left - self.around[1] // stride
        target[..., top:bottom, left:right] = found[..., y : y + bottom - top, x : x + right - left]


def tiles(height: int, width: int, size: int, halo: int) -> Iterator[Tile]:
    """Tiles of ``size`` pixels with ``halo`` more on each side that has any, row by row."""
    for top in range(0, height, size):
        for left in range(0, width, size):
            bottom, right = min(top + size, height), min(left + size, width)
            around = (max(top - halo, 0), max(left - halo, 0), min(bottom + halo, height), min(right + halo, width))
            yield Tile(top, left, bottom, right, around)
