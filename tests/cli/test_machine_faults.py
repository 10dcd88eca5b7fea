"""Full disks, two writers, interrupts: one line, the right exit code, nothing half-written, nothing lost."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from audiovq.data import TokenShards
from audiovq.hub import save_weights
from audiovq.image import ImageCodec
from tests.cli.test_coding import ROOT, files


@pytest.fixture
def full(run):
    """Run a command whose files may have so many KiB, which the system reports as it does a full disk."""

    def call(limit, *arguments):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * limit, before[1]))
        try:
            done = run(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert (done.code, len(done.lines)) == (1, 1), done.err
        assert "cannot be written: file too large" in done.err
        return done.err

    return call


@pytest.fixture
def coded(run, wav):
    wav("a.wav", 30.0)
    assert run("encode", "a.wav").code == 0


COMMANDS = {
    "encode": (["encode", "a.wav", "-o", "b.avq"], 1, "b.avq"),
    "encode to a deep folder": (["encode", "a.wav", "-o", "deep/er/b.avq"], 1, "deep/er/b.avq"),
    "decode": (["decode", "a.avq", "-o", "b.wav"], 100, "b.wav"),
    "decode to raw audio": (["decode", "a.avq", "-o", "b.raw", "--raw", "f64le"], 100, "b.raw"),
    "decode to Opus": (["decode", "a.avq", "-o", "b.opus"], 4, "b.opus"),
    "decode to MP3": (["decode", "a.avq", "-o", "b.mp3"], 4, "b.mp3"),
    "convert": (["convert", "a.wav", "--to", "a.avq", "-o", "b.flac"], 100, "b.flac"),
    "convert coded": (["convert", "a.avq", "--to", "a.avq", "-o", "b.avq"], 1, "b.avq"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(coded, full, tmp_path, name):
    arguments, limit, target = COMMANDS[name]
    before = files(tmp_path)
    assert target in full(limit, *arguments)
    assert files(tmp_path) == before


def test_a_full_disk_for_temporary_files(full, wav, tmp_path, monkeypatch):
    data = wav("a.flac", 10.0).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert "the temporary file for standard input" in full(10, "encode", "-", "-o", "b.avq")
    assert files(tmp_path) == ["a.flac"]


@pytest.mark.parametrize("format", ["tar", "parquet"])
@pytest.mark.parametrize("limit", [1, 4])
def test_a_full_disk_under_shards(run, full, wav, codec, tmp_path, format, limit):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    save_weights(codec, tmp_path / "model")
    for i in range(3):
        wav(f"in/{i}.wav", 60.0)
    options = ["--model", "model", "--format", format, "--shard-files", 1]
    full(limit, "tokenize", "in", "-o", "out", *options)
    assert not [name for name in files("out") if name.startswith((".shard", "shard", "manifest"))]
    assert run("tokenize", "in", "-o", "out", *options).code == 0
    assert len(TokenShards("out")) == 3


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "mp4"])
def test_a_full_disk_under_images(run, full, tmp_path, suffix):
    if suffix == "mp4":
        pytest.importorskip("av")
    torch.manual_seed(0)
    level = {"stride": 2, "latent_dim": 6, "quantizer": {"codebook_size": 16}}
    ImageCodec([level], channels=16, residual=8, n_residual=1).eval().save("tiny")
    noise = np.random.default_rng(0).integers(0, 256, (4, 160, 200, 3), dtype=np.uint8)
    frames = [Image.fromarray(frame) for frame in noise]
    name = "a.png" if suffix in ("png", "jpg", "webp") else "a.gif"
    frames[0].save(name, **({"save_all": True, "append_images": frames[1:]} if name == "a.gif" else {}))
    assert run("encode", name, "--model", "tiny").code == 0
    before = files(tmp_path)
    assert f"b.{suffix}" in full(1, "decode", "a.avq", "-o", f"b.{suffix}", "--model", "tiny")
    assert "b.avq" in full(1, "encode", name, "-o", "b.avq", "--model", "tiny")
    assert files(tmp_path) == before


def test_two_writers_of_one_file(run, wav, tmp_path):
    for name in "ab":
        wav(f"{name}.wav", 20.0, channels=1 + (name == "b"))
        assert run("encode", f"{name}.wav").code == 0
    command = [sys.executable, "-m", "tests.cli.stand_in", "encode"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen([*command, f"{name}.wav", "-f", "-o", "c.avq"], cwd=tmp_path, env=environment)
        for name in "ab"
    ]  # fmt: skip
    assert [running.wait(timeout=60) for running in both] == [0, 0]
    assert (tmp_path / "c.avq").read_bytes() in [(tmp_path / f"{name}.avq").read_bytes() for name in "ab"]
    assert files(tmp_path) == ["a.avq", "a.wav", "b.avq", "b.wav", "c.avq"]


@pytest.mark.parametrize("verb", ["decode", "convert"])
def test_interrupts_leave_nothing_of_other_commands(coded, tmp_path, verb):
    data = Path("a.avq" if verb == "decode" else "a.wav").read_bytes()
    arguments = {"decode": ["-o", "b.flac"], "convert": ["-o", "b.wav", "--to", "a.avq"]}[verb]
    command = [sys.executable, "-m", "tests.cli.stand_in", verb, "-", *arguments]
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "stderr": subprocess.PIPE}
    before = files(tmp_path)
    with subprocess.Popen(command, stdin=subprocess.PIPE, **options) as running:
        running.stdin.write(data[: len(data) * 2 // 3])
        running.stdin.flush()
        for _ in range(1200):
            if files(tmp_path) != before:
                break
            time.sleep(0.05)
        assert files(tmp_path) != before
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(timeout=60)
        finally:
            running.kill()
        assert (running.returncode, running.stderr.read()) == (143, b"audiovq: interrupted\n")
    assert files(tmp_path) == before


def test_the_second_of_two_that_write_one_folder_of_shards(run, wav, codec, tmp_path):
    from audiovq.data.places import Folder
    from audiovq.data.token_writing import alone

    save_weights(codec, tmp_path / "model")
    wav("in/a.wav")
    with alone(Folder(tmp_path / "out")):
        done = run("tokenize", "in", "-o", "out", "--model", "model")
    assert (done.code, done.lines) == (1, ["audiovq: out is being written by another process: wait for it"])
    assert run("tokenize", "in", "-o", "out", "--model", "model").code == 0


CLOSED = {
    "<&-": [(("encode", "a.wav", "-o", "b.avq"), 0), (("encode", "-", "-o", "c.avq"), 1)],
    ">&-": [(("encode", "a.wav", "-o", "b.avq"), 0), (("encode", "a.wav", "-o", "-"), 1), (("--help",), 1)],
    "2>&-": [(("encode", "a.wav", "-o", "b.avq"), 0), (("encode", "none.wav"), 1), (("nonsense",), 2)],
}


@pytest.mark.skipif(os.name != "posix", reason="shells of other systems close no streams")
@pytest.mark.parametrize("closed", CLOSED)
def test_closed_standard_streams(wav, tmp_path, closed):
    """Files do not get the numbers of streams that the caller has closed, and messages do not go into them."""
    wav("a.wav")
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    for arguments, code in CLOSED[closed]:
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "tests.cli.stand_in", *arguments]
        done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert len(done.stderr.splitlines()) == (closed != "2>&-")
        assert "internal error" not in done.stderr
    assert files(tmp_path) == ["a.wav", "b.avq"]
