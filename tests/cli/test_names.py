"""File names that are not UTF-8, in every command that takes folders."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from audiovq.data import TokenShards
from audiovq.hub import save_weights

pytestmark = pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file systems of these take text only")

#: As bytes, and as they are shown.
NAMES = {
    b"caf\xe9.wav": "caf\\xe9.wav",
    b"mod\x85.wav": "mod\\x85.wav",
    b"sp\xe9/a.wav": "sp\\xe9/a.wav",
    "übung.wav".encode(): "übung.wav",
    b"new\nline.wav": "new\nline.wav",
    b"\xff\xfe.wav": "\\xff\\xfe.wav",
}


@pytest.fixture
def folder(wav, tmp_path):
    data = wav("seed.wav").read_bytes()
    (tmp_path / "seed.wav").unlink()
    for name in NAMES:
        path = os.path.join(os.fsencode(tmp_path), b"in", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    return tmp_path / "in"


def names_in(folder):
    return {os.path.relpath(os.path.join(top, name), folder) for top, _, names in os.walk(folder) for name in names}


@pytest.mark.parametrize("format", ["tar", "parquet"])
@pytest.mark.parametrize("workers", [1, 2])
def test_tokenize(run, folder, codec, tmp_path, format, workers):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    save_weights(codec, tmp_path / "model")
    with open(os.fsencode(folder) + b"/bad\xfe.wav", "w") as bad:
        bad.write("no audio")
    options = ["--model", "model", "--format", format, "--workers", workers]
    done = run("tokenize", "in", "-o", "out", *options)
    assert (done.code, done.lines[0].startswith("audiovq: bad\\xfe.wav: is not audio")) == (1, True)
    items = {item.id: item for item in TokenShards("out")}
    assert set(items) == set(NAMES.values())
    assert items["sp\\xe9/a.wav"].speaker == "in/sp\\xe9"
    assert json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))["faults"][0]["id"] == "bad\\xfe.wav"
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    assert "nothing left to encode" in run("tokenize", "in", "-o", "out", *options).err
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_names_that_look_alike_stay_apart(run, wav, codec, tmp_path):
    save_weights(codec, tmp_path / "model")
    data = wav("in/\\xe9.wav", 0.5).read_bytes()
    with open(os.fsencode(tmp_path) + b"/in/\xe9.wav", "wb") as file:
        file.write(data + bytes(16000))  # another length
    assert run("tokenize", "in", "-o", "out", "--model", "model").code == 0
    assert sorted(item.id for item in TokenShards("out")) == ["\\xe9.wav", "\\xe9.wav'"]


def test_encode_decode_and_convert(run, folder, tmp_path):
    expected = {os.fsencode(name).replace(b".wav", b".avq") for name in names_in(folder)}
    assert run("encode", "in", "-o", "coded").code == 0
    assert {os.fsencode(name) for name in names_in(tmp_path / "coded")} == expected
    assert run("decode", "coded", "-o", "back").code == 0
    assert names_in(tmp_path / "back") == names_in(folder)
    first = os.fsdecode(os.fsencode(tmp_path) + b"/in/caf\xe9.wav")
    assert run("convert", "in", "--to", os.fsdecode(b"coded/caf\xe9.avq"), "-o", "spoken").code == 0
    assert names_in(tmp_path / "spoken") == names_in(folder)
    done = run("encode", first, "-o", os.fsdecode(b"n\xe9w.avq"))
    assert (done.code, done.err.startswith("n\\xe9w.avq: 1.00 s")) == (0, True)
    done = run("encode", os.fsdecode(b"n\xf6ne.wav"))
    assert (done.code, done.lines) == (1, ["audiovq: n\\xf6ne.wav: no such file"])


def test_info(run, folder):
    assert run("encode", "in", "-o", "coded").code == 0
    path = os.fsdecode(b"coded/caf\xe9.avq")
    assert run("info", path).out.splitlines()[0] == "file      coded/caf\\xe9.avq"
    assert json.loads(run("info", path, "--json").out)["file"] == "coded/caf\\xe9.avq"
    Path(path).write_bytes(b"AVQ")
    done = run("info", path)
    assert (done.code, len(done.lines), done.lines[0].startswith("audiovq: coded/caf\\xe9.avq: ")) == (1, 1, True)


def test_evaluate(run, folder, tmp_path):
    pytest.importorskip("matplotlib")
    done = run("evaluate", "in", "in", "--metrics", "mel", "--json", "report.json")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert "sp\\xe9" in report["systems"][-1]["by_speaker"]


def test_a_prepared_folder_for_training(folder):
    from audiovq.data.corpora import open_folder

    utterances = open_folder(folder)
    assert {u.id for u in utterances} == set(NAMES.values())
    assert all(np.isfinite(u.load()).all() and len(u.load()) == 16000 for u in utterances)
    assert all(len(u.load(100, 50)) == 50 for u in utterances)
