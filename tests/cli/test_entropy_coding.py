from __future__ import annotations

import json

import pytest

from tests.bitstream.entropy_models import random_model
from tests.fake_codec import FakeCodec


@pytest.fixture
def entropy(monkeypatch, tmp_path):
    """Give the stand-in models an entropy model."""
    folder = tmp_path / "model"
    folder.mkdir()
    random_model(FakeCodec()).save(folder)
    monkeypatch.setattr(FakeCodec, "folder", folder, raising=False)


def test_on_by_default_and_off_on_demand(run, wav, tmp_path, entropy):
    wav("a.wav", 1.3)
    assert run("encode", "a.wav", "-o", "coded.avq").code == 0
    assert run("encode", "a.wav", "-o", "packed.avq", "--no-entropy-coding").code == 0
    sounds = []
    for name, coding in (("coded", "entropy"), ("packed", "packed")):
        data = (tmp_path / f"{name}.avq").read_bytes()
        assert data[4] == 2 + (coding == "entropy")
        found = json.loads(run("info", f"{name}.avq", "--json").out)
        assert found["coding"] == coding
        assert found["coded_bits_per_code"] > 0
        assert run("decode", f"{name}.avq").code == 0
        sounds.append((tmp_path / f"{name}.wav").read_bytes())
    assert sounds[0] == sounds[1]


def test_info_says_how_a_file_is_coded(run, wav, entropy):
    wav("a.wav", 1.3)
    run("encode", "a.wav", "-o", "coded.avq")
    run("encode", "a.wav", "-o", "packed.avq", "--no-entropy-coding")
    assert "coding    entropy-coded, " in run("info", "coded.avq").out
    assert "coding    packed, 10." in run("info", "packed.avq").out


def test_models_without_an_entropy_model_write_packed_files(run, wav, tmp_path):
    wav("a.wav", 1.3)
    assert run("encode", "a.wav").code == 0
    assert (tmp_path / "a.avq").read_bytes()[4] == 2
