"""Atomic writes: names that are as long as the file system allows, and nothing left behind."""

from __future__ import annotations

import os

import pytest

from audiovq.io import atomic_write

NAMES = [
    "a" * 251 + ".wav",
    "a." + "b" * 253,
    "." + "a" * 254,
    "ü" * 125 + ".flac",
    "語" * 83 + ".avq",
    "😀" * 62 + ".mp3",
    os.fsdecode(b"caf\xe9" * 62 + b".wav"),
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_that_the_file_system_takes(tmp_path, name):
    assert 249 <= len(os.fsencode(name)) <= 255
    with atomic_write(tmp_path / name) as temporary:
        assert len(os.fsencode(temporary.name)) <= 255
        assert len((tmp_path / name).suffix) > 10 or temporary.name.endswith((tmp_path / name).suffix)
        temporary.write_bytes(b"content")
        assert os.listdir(tmp_path) == [temporary.name]
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"content"


def test_a_name_that_is_too_long_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="too long"), atomic_write(tmp_path / ("a" * 256)) as temporary:
        pytest.fail(f"began to write {temporary}")
    assert os.listdir(tmp_path) == []
