"""Checksums in files of tensors and of JSON: an altered byte never gives other content."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load, save

from audiovq.hub import BUNDLED, stored_tensors
from audiovq.io import checked, read_json
from audiovq.tensor_files import CHECKSUM, json_with_checksum, split_header, with_checksum, write_json

TENSORS = {
    "weight": np.arange(12, dtype=np.int8).reshape(3, 4),
    "scale": np.array([-1, 2, 300], np.int32),
    "bias": np.array([0.5, -2], np.float16),
    "none": np.zeros((0, 4), np.float32),
}
FILE = with_checksum(save(TENSORS, {"format": "of a test", "model_hash": "01020304"}))


def same(found: dict[str, np.ndarray]) -> bool:
    return found.keys() == TENSORS.keys() and all(
        found[name].dtype == array.dtype and np.array_equal(found[name], array) for name, array in TENSORS.items()
    )


def test_tensors_and_metadata_stay():
    assert same(load(checked(FILE)))
    metadata = split_header(FILE)[0]["__metadata__"]
    assert len(metadata.pop(CHECKSUM)) == 64
    assert metadata == {"format": "of a test", "model_hash": "01020304"}
    assert with_checksum(FILE) == FILE


def test_the_data_is_aligned_and_its_places_are_found(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(FILE)
    entries, first = stored_tensors(tmp_path / "a.safetensors")
    assert first % 8 == 0
    begin, end = entries["scale"]["data_offsets"]
    assert np.array_equal(np.frombuffer(FILE[first + begin : first + end], np.int32), TENSORS["scale"])


@pytest.mark.parametrize("bits", [1, 0x20, 0x80, 0xFF])
def test_every_altered_byte_is_noticed_or_harmless(bits):
    """Harmless is the name of the checksum alone."""
    accepted = 0
    for place in range(len(FILE)):
        changed = bytearray(FILE)
        changed[place] ^= bits
        try:
            found = load(checked(bytes(changed)))
            metadata = split_header(bytes(changed))[0]["__metadata__"]
        except (ValueError, SafetensorError, AttributeError):
            continue
        accepted += 1
        assert same(found)
        assert (metadata["format"], metadata["model_hash"]) == ("of a test", "01020304")
    assert accepted <= len(CHECKSUM)


@pytest.mark.parametrize("length", [0, 7, 8, 40, len(FILE) - 1])
def test_files_that_are_cut_off(length):
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|does not match"):
        checked(FILE[:length])


def test_files_of_other_programs_have_no_checksum():
    data = save(TENSORS)
    assert checked(data) == data


@pytest.mark.parametrize(
    "path", sorted(BUNDLED.rglob("*.safetensors")), ids=lambda path: str(path.relative_to(BUNDLED))
)
def test_bundled_files_match_their_checksums(path):
    data = path.read_bytes()
    assert checked(data) == data
    assert CHECKSUM in split_header(data)[0].get("__metadata__", {}) or path.name == "codebooks.safetensors"


CONTENT = {"name": "caf\xe9", "rate": 16000, "pitch": 204.2, "vector": [7, 0, -12], "inner": {"2": None, "10": True}}


@pytest.mark.parametrize("bits", [1, 4, 0x20, 0x80])
def test_every_altered_byte_of_json_is_noticed_or_harmless(tmp_path, bits):
    path = tmp_path / "config.json"
    write_json(path, CONTENT)
    assert read_json(path) == CONTENT
    data = path.read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= bits
        path.write_bytes(changed)
        try:
            found = read_json(path)
        except ValueError:
            continue
        # Harmless are spaces, and the name of the checksum alone, which then counts as an entry of its own.
        assert {name: value for name, value in found.items() if name in CONTENT} == CONTENT


def test_json_without_a_checksum_is_read_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONTENT))
    assert read_json(tmp_path / "config.json") == CONTENT
    assert json_with_checksum({2: (1, 2)}) == json_with_checksum({"2": [1, 2]})


@pytest.mark.parametrize("path", sorted(BUNDLED.rglob("*.json")), ids=lambda path: str(path.relative_to(BUNDLED)))
def test_bundled_json_has_a_checksum(path):
    content = read_json(path)
    assert path.name == "training.json" or json_with_checksum(content) == json.loads(path.read_text(encoding="utf-8"))
