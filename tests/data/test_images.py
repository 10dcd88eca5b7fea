"""Image sources on tiny trees of their own layout, and crops."""

from __future__ import annotations

import gzip
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from audiovq.data.images import FixedCrops, ImageCrops, open_images, split_of_image
from audiovq.data.utterance import split_of
from audiovq.errors import AudioVQError


def save(path, size=(40, 30), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)


def idx(array, path):
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()) if path.suffix == ".gz" else header + array.tobytes())


def test_folder_has_classes_and_splits(tmp_path):
    for i in range(60):
        save(tmp_path / ("cat" if i % 2 else "dog") / f"{i}.png", seed=i)
    everything = open_images(tmp_path, None)
    assert len(everything) == 60
    assert {p.label for p in everything} == {0, 1}
    assert all(p.split == split_of(p.id.rpartition("/")[2]) for p in everything)
    shrunk = open_images({"name": "images", "root": tmp_path, "side": 15}, "train")[0].load()
    assert shrunk.shape == (15, 20, 3)


def test_photographs_are_split_by_name(tmp_path):
    with pytest.raises(AudioVQError, match=r"prepare\.py"):
        open_images("photographs", root=tmp_path)
    names = [f"image{i}" for i in range(20)]
    for name in names:
        save(tmp_path / f"{name}.png")
    for item in open_images("photographs", None, root=tmp_path):
        assert item.split == split_of_image(item.id.replace(".png", ".jpg"))
        if split_of(item.id.replace(".png", ".jpg")) == "test":
            assert item.split == "test"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist(tmp_path, suffix):
    rng = np.random.default_rng(0)
    for part, n in (("train", 20), ("t10k", 6)):
        idx(rng.integers(0, 256, (n, 28, 28), np.uint8), tmp_path / f"{part}-images-idx3-ubyte{suffix}")
        idx(np.arange(n, dtype=np.uint8) % 10, tmp_path / f"{part}-labels-idx1-ubyte{suffix}")
    sizes = [len(open_images("fashion_mnist", split, root=tmp_path)) for split in ("train", "validation", "test")]
    assert sizes == [16, 4, 6]
    last = open_images("fashion_mnist", "test", root=tmp_path)[-1]
    assert (last.load().shape, last.label) == ((28, 28, 1), 5)
    (tmp_path / f"train-labels-idx1-ubyte{suffix}").write_bytes(b"")
    with pytest.raises((AudioVQError, EOFError)):
        open_images("fashion_mnist", root=tmp_path)


def test_cifar10(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    data = rng.integers(0, 256, (4, 3072), np.uint8)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": [3, 1, 4, 1]}))
    found = open_images("cifar10", "train", root=tmp_path)
    assert len(found) == 16
    assert found[2].label == 4
    assert np.array_equal(found[2].load()[5, 7], data[2].reshape(3, 32, 32)[:, 5, 7])
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Image.Image}))
    with pytest.raises(AudioVQError, match="refused to load"):
        open_images("cifar10", root=tmp_path)


def test_imagenet(tmp_path):
    for i in range(4):
        save(tmp_path / "train" / f"n0000000{i % 2}" / f"{i}.JPEG", (200, 180))
    save(tmp_path / "val" / "n00000001" / "val.JPEG", (300, 320))
    found = open_images("imagenet", "test", root=tmp_path)
    assert [(p.label, p.load().shape) for p in found] == [(1, (171, 160, 3))]
    assert {p.label for p in open_images("imagenet", None, root=tmp_path)} == {0, 1}


def test_crops_depend_on_seed_and_index_alone(tmp_path):
    for i in range(60):
        save(tmp_path / f"{i}.png", seed=i)
    items = open_images(tmp_path, "train")
    crops, again = ImageCrops(items, 16, seed=1), ImageCrops(items, 16, seed=1)
    assert all(torch.equal(crops[i]["image"], again[i]["image"]) for i in (0, 5, 1 << 35))
    assert crops[0]["image"].shape == (3, 16, 16)
    assert torch.equal((crops[3]["image"] * 255).round() / 255, crops[3]["image"])
    fixed = FixedCrops(items, 16, 10)
    assert fixed.images().shape == (10, 3, 16, 16)
    i, top, left = fixed.positions[3]
    expected = torch.tensor(items[i].load()[top : top + 16, left : left + 16]).permute(2, 0, 1) / 255
    assert torch.equal(fixed[3]["image"], expected)
    with pytest.raises(AudioVQError, match="too few"):
        ImageCrops(items, 64)


def test_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(AudioVQError, match="unknown image source"):
        open_images("nothing")
    with pytest.raises(AudioVQError, match="no images"):
        open_images(tmp_path)
    with pytest.raises(AudioVQError, match="unknown split"):
        open_images(tmp_path, "unseen")
