"""Crops of pictures: random ones for training, fixed ones for judging."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiovq.data.picture import Picture
from audiovq.errors import AudioVQError


class ImageCrops(Dataset):
    """Item i is decided by ``(seed, i)`` alone: a picture, by its area, a place in it, and whether it is mirrored.

    Items are dictionaries with ``image`` (C, size, size) float32 in [0, 1], on the grid of 256 levels, and ``label``.

    Args:
        pictures: all are loaded once and kept.
        size: pixels of a crop.
        flip: mirror half of them.

    Raises:
        AudioVQError: when a picture is smaller than a crop.
    """

    def __init__(self, pictures: Sequence[Picture], size: int, seed: int = 0, flip: bool = True) -> None:
        self.size, self.seed, self.flip = size, seed, flip
        self.pixels = [picture.load() for picture in pictures]
        self.labels = [picture.label for picture in pictures]
        check_sizes(pictures, self.pixels, size)
        areas = np.array([(p.shape[0] - size + 1) * (p.shape[1] - size + 1) for p in self.pixels], float)
        self.cumulative = np.cumsum(areas / areas.sum())

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        random = np.random.default_rng([self.seed, index])
        i = min(int(np.searchsorted(self.cumulative, random.random(), "right")), len(self.pixels) - 1)
        pixels = self.pixels[i]
        top, left = (int(random.integers(edge - self.size + 1)) for edge in pixels.shape[:2])
        mirrored = self.flip and random.random() < 0.5
        return item_of(pixels[top : top + self.size, left : left + self.size], self.labels[i], mirrored)


class FixedCrops(Dataset):
    """``n`` crops that lie side by side, drawn evenly over all pictures: the same whoever asks.

    Items are those of `ImageCrops`.
    """

    def __init__(self, pictures: Sequence[Picture], size: int, n: int) -> None:
        self.size, self.pictures = size, list(pictures)
        self.pixels = [picture.load() for picture in self.pictures]
        check_sizes(pictures, self.pixels, size)
        places = [
            (i, top, left)
            for i, pixels in enumerate(self.pixels)
            for top in range(0, pixels.shape[0] - size + 1, size)
            for left in range(0, pixels.shape[1] - size + 1, size)
        ]
        chosen = np.linspace(0, len(places) - 1, min(n, len(places))).round().astype(int)
        self.places = [places[i] for i in chosen]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        i, top, left = self.places[index]
        return item_of(self.pixels[i][top : top + self.size, left : left + self.size], self.pictures[i].label, False)

    def images(self) -> Tensor:
        """All of them, (n, C, size, size) in [0, 1]."""
        return torch.stack([self[i]["image"] for i in range(len(self))])


def check_sizes(pictures: Sequence[Picture], pixels: Sequence[np.ndarray], size: int) -> None:
    for picture, array in zip(pictures, pixels, strict=True):
        if min(array.shape[:2]) < size:
            shape = "x".join(map(str, array.shape[1::-1]))
            raise AudioVQError(f"{picture.id} has {shape} pixels, too few for crops of {size}: take smaller crops")


def item_of(crop: np.ndarray, label: int, mirrored: bool) -> dict[str, Tensor]:
    crop = np.array(crop[:, ::-1] if mirrored else crop)  # a copy: recordings are mapped read-only
    return {"image": torch.from_numpy(crop).permute(2, 0, 1) / 255.0, "label": torch.tensor(label)}
