"""One picture of a source: the dataclass that every image source gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from audiovq.errors import AudioVQError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture and what is known of it.

    Attributes:
        id: unique within its source.
        split: "train", "validation" or "test".
        source: name of the source.
        label: number of its class; -1 for none.
        reader: gives the pixels; see `load`.
    """

    id: str
    split: str
    source: str
    reader: Callable[[], np.ndarray] = field(repr=False, compare=False)
    label: int = -1

    def load(self) -> np.ndarray:
        """(H, W, C) uint8, C is 3 (RGB) or 1 (grey).

        Raises:
            AudioVQError: when its file cannot be read.
        """
        return self.reader()


def read_picture(path: Path, side: int | None = None) -> np.ndarray:
    """A picture file as (H, W, 3) uint8, shrunk until its short side is ``side`` pixels; never enlarged.

    Raises:
        AudioVQError: when it is no picture.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, ValueError) as error:
        raise AudioVQError(f"cannot read the picture {path}: {error}") from None
    return shrink(np.asarray(image), side)


def shrink(pixels: np.ndarray, side: int | None) -> np.ndarray:
    """(H, W, C) uint8 with a short side of at most ``side`` pixels."""
    from PIL import Image

    short = min(pixels.shape[:2])
    if side is None or short <= side:
        return pixels
    height, width = (max(side, round(edge * side / short)) for edge in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def picture_file(path: Path, root: Path, split: str, label: int = -1, side: int | None = None) -> Picture:
    """A file below ``root`` as a picture, read when it is asked for."""
    name = path.relative_to(root).as_posix()
    return Picture(name, split, root.name, partial(read_picture, path, side), label)


def rows_of(array: np.ndarray, split: str, source: str, labels: np.ndarray | None = None) -> list[Picture]:
    """Pictures (N, H, W, C) uint8 of an array that stays where it is."""
    return [
        Picture(f"{source}/{split}/{i}", split, source, partial(array.__getitem__, i), int(label))
        for i, label in enumerate(labels if labels is not None else np.full(len(array), -1))
    ]
