"""Input that can be coded although something is wrong with it: it is coded, and the command says what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.data import TokenShards
from audiovq.hub import save_weights
from tests.cli.test_coding import ROOT, files, process
from tests.evaluation.conftest import voice


def check_remark(done, *words):
    """The command did its work with one remark."""
    assert done.code == 0, done.err
    assert len(done.lines) == 2
    for word in words:
        assert word in done.lines[0]


@pytest.fixture
def unfinished(wav):
    """The recording of a recorder that was killed: its header says that it is empty."""
    data = wav("a.wav", 2.0).read_bytes()
    Path("a.wav").write_bytes(data[:4] + (36).to_bytes(4, "little") + data[8:40] + bytes(4) + data[44:])
    return data


def test_an_unfinished_recording(run, unfinished):
    check_remark(run("encode", "a.wav"), "a.wav: warning", "all 2.00 s")
    assert run("decode", "a.avq", "-o", "b.wav").code == 0
    assert soundfile.info("b.wav").frames == 32000
    Path("whole.wav").write_bytes(unfinished)
    assert run("encode", "whole.wav").code == 0
    assert Path("whole.avq").read_bytes() == Path("a.avq").read_bytes()
    piped = process(["encode", "-"], Path("a.wav").read_bytes())
    assert (piped.returncode, piped.stdout) == (0, Path("a.avq").read_bytes())
    assert b"all 2.00 s" in piped.stderr


def test_a_recording_that_was_cut_off(run, tmp_path):
    soundfile.write("a.flac", voice(4.0), 16000)
    data = Path("a.flac").read_bytes()
    Path("a.flac").write_bytes(data[: len(data) // 2])
    check_remark(run("encode", "a.flac"), "warning: its end is damaged or missing")
    check_remark(run("convert", "a.flac", "--to", "a.avq", "-o", "b.wav"), "warning: its end is damaged or missing")
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 16
    Path("a.flac").write_bytes(damaged)
    done = run("encode", "a.flac", "-o", "c.avq")
    assert (done.code, len(done.lines)) == (1, 1)
    assert "cannot be decoded from" in done.err
    assert files(tmp_path) == ["a.avq", "a.flac", "b.wav"]


def test_opposite_channels_mixed_down(run, tmp_path):
    samples = voice(4.0)
    soundfile.write("a.wav", np.stack([samples, -samples], axis=1), 16000)
    soundfile.write("left.wav", samples, 16000)
    check_remark(run("encode", "a.wav", "--mono"), "cancel each other at 0.00 s to 4.00 s")
    assert run("encode", "left.wav").code == 0
    assert Path("a.avq").read_bytes() == Path("left.avq").read_bytes()
    assert len(run("encode", "a.wav", "-o", "stereo.avq").lines) == 1
    # As source and as target of a conversion.
    for name, options in (("a", ["--mono"]), ("left", [])):
        done = run("convert", f"{name}.wav", "--to", f"{name}.wav", "-o", f"{name}.converted.wav", *options)
        assert done.code == 0
        assert sum("cancel each other" in line for line in done.lines) == 2 * (name == "a")
    assert Path("a.converted.wav").read_bytes() == Path("left.converted.wav").read_bytes()


def test_clipped_stretches_are_one_line(run):
    soundfile.write("a.wav", np.clip(9 * voice(4.0), -1, 1), 16000)
    check_remark(run("encode", "a.wav"), "a.wav: warning: clipped, and so distorted, at ")


def test_a_corpus_keeps_remarks_in_its_manifest(run, codec, unfinished, tmp_path):
    save_weights(codec, tmp_path / "model")
    (tmp_path / "in").mkdir()
    Path("a.wav").rename("in/a.wav")
    for workers in (1, 2):
        done = run("tokenize", "in", "-o", f"out{workers}", "--model", "model", "--workers", workers)
        assert done.code == 0
        assert "a.wav: warning" in done.lines[0]
        shards = TokenShards(f"out{workers}")
        assert [item.seconds for item in shards] == [2.0]
        (remark,) = shards.manifest["remarks"]
        assert (remark["id"], "all 2.00 s" in remark["remark"]) == ("a.wav", True)
    assert Path("out1/manifest.json").read_bytes() == Path("out2/manifest.json").read_bytes()


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="named pipes as shells make them")
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.avq"])
def test_named_pipes_are_read_once(run, wav, tmp_path, name):
    wav("a.wav", 2.0)
    wav("a.flac", 2.0)
    assert run("encode", "a.wav").code == 0
    assert run("convert", name, "--to", "a.avq", "-o", "right.wav").code == 0
    os.mkfifo("pipe")
    with subprocess.Popen(f"cat {name} > pipe", shell=True):
        command = [sys.executable, "-m", "tests.cli.stand_in", "convert", tmp_path / "pipe", "--to", tmp_path / "a.avq"]
        done = subprocess.run(
            [*command, "-o", tmp_path / "b.wav"], capture_output=True, cwd=ROOT, timeout=60, stdin=subprocess.DEVNULL
        )
    assert done.returncode == 0, done.stderr
    assert Path("b.wav").read_bytes() == Path("right.wav").read_bytes()
