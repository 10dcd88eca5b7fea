"""Image data sets: items of one form, sources by name, and crops to train on."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiovq.data.episodes import open_episodes
from audiovq.data.utterance import split_of
from audiovq.errors import AudioVQError
from audiovq.io import cache_dir
from audiovq.media.images import read_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_SPLITS = ("train", "validation", "test")

# -- items ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageItem:
    """An image of a data set; ``label`` is its class index, -1 for none."""

    id: str
    split: str
    source: str
    reader: Callable[[], np.ndarray] = field(repr=False, compare=False)
    label: int = -1

    def load(self) -> np.ndarray:
        """(H, W, C) uint8, C is 3 (RGB) or 1 (grey); `AudioVQError` when its file cannot be read."""
        return self.reader()


def load_image(path: Path, side: int | None = None) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8, shrunk to a short side of ``side`` pixels; never enlarged."""
    return shrink(read_image(path), side)


def shrink(pixels: np.ndarray, side: int | None) -> np.ndarray:
    """Shrink (H, W, C) uint8 to a short side of at most ``side`` pixels; None: unchanged."""
    from PIL import Image

    short = min(pixels.shape[:2])
    if side is None or short <= side:
        return pixels
    height, width = (max(side, round(edge * side / short)) for edge in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def file_item(path: Path, root: Path, split: str, label: int = -1, side: int | None = None) -> ImageItem:
    """An image file below ``root``, read on demand."""
    name = path.relative_to(root).as_posix()
    return ImageItem(name, split, root.name, partial(load_image, path, side), label)


def array_items(array: np.ndarray, split: str, source: str, labels: np.ndarray | None = None) -> list[ImageItem]:
    """The images of an array (N, H, W, C) uint8, without a copy."""
    return [
        ImageItem(f"{source}/{split}/{i}", split, source, partial(array.__getitem__, i), int(label))
        for i, label in enumerate(labels if labels is not None else np.full(len(array), -1))
    ]


# -- sources ----------------------------------------------------------------------------------------------------------


def split_of_image(name: str) -> str:
    """Split by file name, for few images: 1/5 test, 1/5 validation. Contains the test images of `split_of`."""
    return {0: "test", 1: "validation"}.get(int(hashlib.sha1(name.encode()).hexdigest(), 16) % 5, "train")


def open_photographs(root: Path, side: int | None = None) -> list[ImageItem]:
    """Photographs from Debian packages, ``NAME.png``, as written by ``recipes/images/prepare.py``."""
    files = _files(root) if root.is_dir() else []
    if not files:
        raise AudioVQError(f"no photographs in {root}: run `python recipes/images/prepare.py --out {root}`")
    return [file_item(path, root, split_of_image(path.stem + ".jpg"), side=side) for path in files]


def open_image_folder(root: Path, side: int | None = None) -> list[ImageItem]:
    """Any folder of images; the first folder below the root is the class. Split: see `split_of`."""
    if not root.is_dir():
        raise AudioVQError(f"no folder {root}: give a folder of images")
    files = _files(root)
    if not files:
        raise AudioVQError(f"no images in {root}: expected files with {', '.join(SUFFIXES)}")
    classes = sorted({path.relative_to(root).parts[0] for path in files if path.parent != root})
    labels = [classes.index(path.relative_to(root).parts[0]) if path.parent != root else -1 for path in files]
    return [file_item(p, root, split_of(p.name), label, side) for p, label in zip(files, labels, strict=True)]


def open_fashion_mnist(root: Path) -> list[ImageItem]:
    """Fashion-MNIST: IDX files as distributed by its authors and by Debian's dataset-fashion-mnist, also gzipped.

    28x28 grey, ten classes; the last 5000 training images are the validation split.
    """
    arrays = []
    for part in ("train", "t10k"):
        images = read_idx(_idx(root, f"{part}-images-idx3-ubyte"))[..., None]
        arrays.append((images, read_idx(_idx(root, f"{part}-labels-idx1-ubyte"))))
    (images, labels), test = arrays
    cut = len(images) - min(5000, len(images) // 5)
    items = array_items(images[:cut], "train", "fashion_mnist", labels[:cut])
    items += array_items(images[cut:], "validation", "fashion_mnist", labels[cut:])
    return items + array_items(test[0], "test", "fashion_mnist", test[1])


def open_cifar10(root: Path) -> list[ImageItem]:
    """CIFAR-10, Python version: ``cifar-10-batches-py/data_batch_1..5`` and ``test_batch``; batch 5 is validation."""
    folder = root / "cifar-10-batches-py" if (root / "cifar-10-batches-py").is_dir() else root
    items: list[ImageItem] = []
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        try:
            batch = _Plain((folder / name).open("rb"), encoding="bytes").load()
            images = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = np.asarray(batch[b"labels"])
        except FileNotFoundError:
            raise AudioVQError(f"no {name} in {folder}: expected the folder cifar-10-batches-py") from None
        except (pickle.UnpicklingError, KeyError, ValueError, EOFError) as error:
            raise AudioVQError(f"{folder / name} is not a batch of CIFAR-10: {error}") from None
        split = {"test_batch": "test", "data_batch_5": "validation"}.get(name, "train")
        items += array_items(np.ascontiguousarray(images), split, f"cifar10/{name}", labels)
    return items


def open_imagenet(root: Path, side: int | None = 160) -> list[ImageItem]:
    """ImageNet: ``train/nXXXXXXXX/*.JPEG`` and ``val/nXXXXXXXX/*.JPEG``.

    ``val`` is test, and 1/20 of the training files are validation. Images are shrunk to a short side of ``side``
    pixels, from which crops of 128 are taken.
    """
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        raise AudioVQError(f"no ImageNet in {root}: expected the folders train and val with one folder per class")
    classes = {path.name: i for i, path in enumerate(sorted(p for p in (root / "train").iterdir() if p.is_dir()))}
    items = []
    for part in ("train", "val"):
        for path in _files(root / part):
            training = "validation" if split_of(path.name) == "validation" else "train"
            split = "test" if part == "val" else training
            items.append(file_item(path, root, split, classes.get(path.parent.name, -1), side))
    return items


def open_frames(root: Path, scenario: str | None = None, every: int = 1) -> list[ImageItem]:
    """Every ``every``-th frame of each episode of a recording (see `audiovq.data.episodes`)."""
    items: list[ImageItem] = []
    for episode in open_episodes(root, scenario=scenario):
        items += array_items(episode.frames[::every], episode.split, episode.id)
    return items


_SOURCES: dict[str, Any] = {
    "photographs": open_photographs,
    "images": open_image_folder,
    "fashion_mnist": open_fashion_mnist,
    "cifar10": open_cifar10,
    "imagenet": open_imagenet,
    "vizdoom": open_frames,
}
NAMES = tuple(_SOURCES)


def open_images(
    source: str | Path | Mapping[str, Any], split: str | None = "train", root: str | Path | None = None, **options: Any
) -> list[ImageItem]:
    """The images of one source.

    Args:
        source: one of `NAMES`, a folder of images, or a mapping ``{name: ..., root: ..., ...}`` with the arguments
            of this function.
        split: "train", "validation", "test", or None for all.
        root: the source's folder; ``<cache>/data/<name>`` by default.
        options: further arguments of the source: ``side``, ``scenario``, ``every``.

    Raises:
        AudioVQError: for a name, split or folder that does not exist, and for an empty split.
    """
    if isinstance(source, Mapping):
        arguments = {str(key): value for key, value in source.items()}
        if "name" not in arguments:
            raise AudioVQError(f"an image source needs a name (one of {', '.join(NAMES)}), got {arguments}")
        return open_images(split=split, source=arguments.pop("name"), **{"root": root, **options, **arguments})
    if split not in (None, *_SPLITS):
        raise AudioVQError(f"unknown split {split!r}; choose from {', '.join(_SPLITS)}")
    name = str(source)
    if name in _SOURCES:
        folder = Path(root).expanduser() if root is not None else cache_dir() / "data" / name
        items = _SOURCES[name](folder, **options)
    elif Path(name).expanduser().is_dir():
        items = open_image_folder(Path(name).expanduser(), **options)
    else:
        raise AudioVQError(f"unknown image source {name!r}; choose from {', '.join(NAMES)}, or give a folder")
    chosen = [item for item in items if split in (None, item.split)]
    if not chosen:
        raise AudioVQError(f"{name} has no images in the split {split!r}")
    return chosen


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes (magic number, big-endian sizes, values) as an array."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise AudioVQError(f"{path} is not an IDX file of bytes")
    shape = np.frombuffer(data, ">i4", data[3], 4).tolist()
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if len(values) != int(np.prod(shape)):
        raise AudioVQError(f"{path} is truncated")
    return values.reshape(shape)


def _idx(root: Path, name: str) -> Path:
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise AudioVQError(f"no {name} in {root}: unpack Fashion-MNIST (Debian: dataset-fashion-mnist) there")


def _files(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]


class _Plain(pickle.Unpickler):
    """Unpickles arrays and plain values only: a data set must not run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"refused to load {module}.{name}")


# -- crops ------------------------------------------------------------------------------------------------------------


class ImageCrops(Dataset):
    """Random crops: item i is a function of ``(seed, i)`` alone. Images are chosen in proportion to their area.

    Items are dictionaries with ``image`` (C, size, size) float32 in [0, 1], on the grid of 256 levels, and ``label``.

    All images are loaded once and kept; ``flip`` mirrors half of the crops.

    Raises:
        AudioVQError: when an image is smaller than a crop of ``size`` pixels.
    """

    def __init__(self, items: Sequence[ImageItem], size: int, seed: int = 0, flip: bool = True) -> None:
        self.size, self.seed, self.flip = size, seed, flip
        self.pixels, self.labels = load_all(items, size), [item.label for item in items]
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
        return crop_item(pixels[top : top + self.size, left : left + self.size], self.labels[i], mirrored)


class FixedCrops(Dataset):
    """``n`` fixed crops, evenly spaced over the grid of adjacent crops of all images; items as of `ImageCrops`."""

    def __init__(self, items: Sequence[ImageItem], size: int, n: int) -> None:
        self.size, self.items, self.pixels = size, list(items), load_all(items, size)
        positions = [
            (i, top, left)
            for i, pixels in enumerate(self.pixels)
            for top in range(0, pixels.shape[0] - size + 1, size)
            for left in range(0, pixels.shape[1] - size + 1, size)
        ]
        chosen = np.linspace(0, len(positions) - 1, min(n, len(positions))).round().astype(int)
        self.positions = [positions[i] for i in chosen]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        i, top, left = self.positions[index]
        return crop_item(self.pixels[i][top : top + self.size, left : left + self.size], self.items[i].label, False)

    def images(self) -> Tensor:
        """All crops, (n, C, size, size) in [0, 1]."""
        return torch.stack([self[i]["image"] for i in range(len(self))])


def load_all(items: Sequence[ImageItem], size: int) -> list[np.ndarray]:
    """The pixels of images; `AudioVQError` unless crops of ``size`` pixels fit into all."""
    pixels = [item.load() for item in items]
    for item, array in zip(items, pixels, strict=True):
        if min(array.shape[:2]) < size:
            shape = "x".join(map(str, array.shape[1::-1]))
            raise AudioVQError(f"{item.id} has {shape} pixels, too few for crops of {size}: use smaller crops")
    return pixels


def crop_item(crop: np.ndarray, label: int, mirrored: bool) -> dict[str, Tensor]:
    """A crop (H, W, C) uint8 as an item of `ImageCrops`."""
    crop = np.array(crop[:, ::-1] if mirrored else crop)  # a copy: recordings are mapped read-only
    return {"image": torch.from_numpy(crop).permute(2, 0, 1) / 255.0, "label": torch.tensor(label)}
