"""Image sources by name."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from audiovq.data.picture import SUFFIXES, Picture, picture_file, rows_of
from audiovq.data.splits import split_of
from audiovq.errors import AudioVQError
from audiovq.files import cache_dir

_SPLITS = ("train", "validation", "test")


def split_of_picture(name: str) -> str:
    """One picture in five is test, one validation: there are few. Contains the test pictures of `split_of`."""
    return {0: "test", 1: "validation"}.get(int(hashlib.sha1(name.encode()).hexdigest(), 16) % 5, "train")


def open_photographs(root: Path, side: int | None = None) -> list[Picture]:
    """Photographs of Debian's packages as ``recipes/images/prepare.py`` leaves them: ``NAME.png``."""
    files = _files(root) if root.is_dir() else []
    if not files:
        raise AudioVQError(f"no photographs in {root}: run `python recipes/images/prepare.py --out {root}`")
    return [picture_file(path, root, split_of_picture(path.stem + ".jpg"), side=side) for path in files]


def open_picture_folder(root: Path, side: int | None = None) -> list[Picture]:
    """Any folder of pictures; the first folder below the root is the class. One file in 20 is test, one validation."""
    if not root.is_dir():
        raise AudioVQError(f"no folder {root}: give the root of a folder of pictures")
    files = _files(root)
    if not files:
        raise AudioVQError(f"no pictures in {root}: expected files with {', '.join(SUFFIXES)}")
    classes = sorted({path.relative_to(root).parts[0] for path in files if path.parent != root})
    labels = [classes.index(path.relative_to(root).parts[0]) if path.parent != root else -1 for path in files]
    return [picture_file(p, root, split_of(p.name), label, side) for p, label in zip(files, labels, strict=True)]


def open_fashion_mnist(root: Path) -> list[Picture]:
    """Fashion-MNIST, IDX files as its makers and Debian's dataset-fashion-mnist lay them out, also gzipped.

    28x28 grey, ten classes; the last 5000 training pictures are for validation.
    """
    found: list[Picture] = []
    for part, split in (("train", "train"), ("t10k", "test")):
        images = read_idx(_idx(root, f"{part}-images-idx3-ubyte"))[..., None]
        labels = read_idx(_idx(root, f"{part}-labels-idx1-ubyte"))
        if split == "train":
            cut = len(images) - min(5000, len(images) // 5)
            found += rows_of(images[:cut], "train", "fashion_mnist", labels[:cut])
            found += rows_of(images[cut:], "validation", "fashion_mnist", labels[cut:])
        else:
            found += rows_of(images, "test", "fashion_mnist", labels)
    return found


def open_cifar10(root: Path) -> list[Picture]:
    """CIFAR-10, the Python version: ``cifar-10-batches-py/data_batch_1..5`` and ``test_batch``; batch 5 validates."""
    folder = root / "cifar-10-batches-py" if (root / "cifar-10-batches-py").is_dir() else root
    found: list[Picture] = []
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        try:
            batch = _Plain((folder / name).open("rb"), encoding="bytes").load()
            images = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = np.asarray(batch[b"labels"])
        except FileNotFoundError:
            raise AudioVQError(f"no {name} in {folder}: give the folder of cifar-10-batches-py") from None
        except (pickle.UnpicklingError, KeyError, ValueError, EOFError) as error:
            raise AudioVQError(f"{folder / name} is no batch of CIFAR-10: {error}") from None
        split = {"test_batch": "test", "data_batch_5": "validation"}.get(name, "train")
        found += rows_of(np.ascontiguousarray(images), split, f"cifar10/{name}", labels)
    return found


def open_imagenet(root: Path, side: int | None = 160) -> list[Picture]:
    """ImageNet: ``train/nXXXXXXXX/*.JPEG`` and ``val/nXXXXXXXX/*.JPEG``.

    val is test, one training file in 20 validates. Pictures are shrunk to a short side of ``side`` pixels, out of which
    crops of 128 are taken.
    """
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        raise AudioVQError(f"no ImageNet in {root}: expected the folders train and val with one folder a class")
    classes = {path.name: i for i, path in enumerate(sorted(p for p in (root / "train").iterdir() if p.is_dir()))}
    found = []
    for part in ("train", "val"):
        for path in _files(root / part):
            own = "validation" if split_of(path.name) == "validation" else "train"
            split = "test" if part == "val" else own
            found.append(picture_file(path, root, split, classes.get(path.parent.name, -1), side))
    return found


def open_frames(root: Path, scenario: str | None = None, every: int = 1) -> list[Picture]:
    """Frames of a recording (see `audiovq.data.episodes`), every so many of each episode."""
    from audiovq.data.episodes import open_episodes

    found: list[Picture] = []
    for episode in open_episodes(root, scenario=scenario):
        found += rows_of(episode.frames[::every], episode.split, episode.id)
    return found


_SOURCES: dict[str, Any] = {
    "photographs": open_photographs,
    "pictures": open_picture_folder,
    "fashion_mnist": open_fashion_mnist,
    "cifar10": open_cifar10,
    "imagenet": open_imagenet,
    "vizdoom": open_frames,
}
NAMES = tuple(_SOURCES)


def open_pictures(
    source: str | Path | Mapping[str, Any], split: str | None = "train", root: str | Path | None = None, **options: Any
) -> list[Picture]:
    """The pictures of one source.

    Args:
        source: one of `NAMES`, a folder of pictures, or a mapping ``{name: ..., root: ..., ...}`` with the arguments
            of this function.
        split: "train", "validation", "test", or None for all.
        root: the source's folder; ``<cache>/data/<name>`` by default.
        options: of that source.

    Raises:
        AudioVQError: for a name, split or folder that does not exist, and for a split without pictures.
    """
    if isinstance(source, Mapping):
        arguments = {str(key): value for key, value in source.items()}
        if "name" not in arguments:
            raise AudioVQError(f"an image source needs a name (one of {', '.join(NAMES)}), got {arguments}")
        return open_pictures(split=split, source=arguments.pop("name"), **{"root": root, **options, **arguments})
    if split not in (None, *_SPLITS):
        raise AudioVQError(f"no split {split!r}: there are {', '.join(_SPLITS)}")
    name = str(source)
    if name in _SOURCES:
        folder = Path(root).expanduser() if root is not None else cache_dir() / "data" / name
        found = _SOURCES[name](folder, **options)
    elif Path(name).expanduser().is_dir():
        found = open_picture_folder(Path(name).expanduser(), **options)
    else:
        raise AudioVQError(f"no image source {name!r}: name one of {', '.join(NAMES)} or a folder")
    chosen = [picture for picture in found if split in (None, picture.split)]
    if not chosen:
        raise AudioVQError(f"{name} has no pictures in the split {split!r}")
    return chosen


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes (magic number, sizes big-endian, values) as an array.

    Raises:
        AudioVQError: when it is none.
    """
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise AudioVQError(f"{path} is no IDX file of bytes")
    shape = np.frombuffer(data, ">i4", data[3], 4).tolist()
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if len(values) != int(np.prod(shape)):
        raise AudioVQError(f"{path} is cut short")
    return values.reshape(shape)


def _idx(root: Path, name: str) -> Path:
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise AudioVQError(f"no {name} in {root}: unpack Fashion-MNIST (Debian: dataset-fashion-mnist) there")


def _files(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]


class _Plain(pickle.Unpickler):
    """Reads arrays and plain values, and nothing else: a data set must not run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
