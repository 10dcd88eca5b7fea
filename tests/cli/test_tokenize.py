"""``audiovq tokenize``: what it says and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from audiovq.data import TokenShards
from audiovq.hub import save_weights
from tests.cli.test_coding import ROOT


@pytest.fixture
def model(codec, tmp_path):
    save_weights(codec, tmp_path / "model")
    return tmp_path / "model"


def test_a_corpus_with_a_bad_file(run, wav, tmp_path, model):
    wav("in/a.wav", 1.2)
    wav("in/b.wav", 0.3, 44100)
    (tmp_path / "in" / "bad.wav").write_text("no audio")
    done = run("tokenize", "in", "-o", "out", "--model", model, "--codebooks", 3)
    assert (done.code, done.out) == (1, "")
    assert done.lines[0].startswith("audiovq: bad.wav: is not audio")
    assert done.lines[1].startswith("out: 1 shard, 2 items")
    assert done.lines[2].endswith("times real time")
    assert done.lines[3] == "audiovq: 1 recording could not be encoded; see out/manifest.json"
    assert [item.codes.shape for item in TokenShards("out")] == [(3, 60), (3, 15)]
    again = run("tokenize", "in", "-o", "out", "--model", model, "--codebooks", 3)
    assert (again.code, again.lines[1]) == (1, "nothing left to encode")
    (tmp_path / "in" / "bad.wav").unlink()
    assert run("tokenize", "in", "-o", "out", "--model", model, "-f", "--workers", 2).code == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["model"]["n_codebooks"] == 2


def test_what_cannot_be_done_is_told_before_anything_is_loaded(run, wav, model, monkeypatch):
    wav("in/a.wav")
    monkeypatch.setattr("audiovq.data.token_coding.Coding.codec", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for arguments, word in (
        (["nowhere"], "no such folder"),
        (["in/a.wav"], "is a file"),
        (["model"], "no recordings"),
        (["in", "--codebooks", 5], "1 to 4 codebooks"),
        (["in", "--bitrate", 0.1], "needs 0.4 kb/s or more"),
        (["in", "--bitrate", 0.5, "--codebooks", 2], "exclude each other"),
        (["in", "--model", "nothing"], "no model 'nothing'"),
        (["in", "--format", "zip"], "tar or parquet"),
        (["in", "--format", "parquet"], "pip install 'audiovq[tokens]'"),
    ):
        done = run("tokenize", "-o", "out", "--model", model, *arguments)
        assert (done.code, len(done.lines)) == (1, 1)
        assert word in done.err
    assert not os.path.exists("out")
    assert run("tokenize", "in", "-o", "in/a.wav", "--model", model).lines == [
        "audiovq: in/a.wav: is a file; name a folder for the shards"
    ]


@pytest.mark.parametrize(
    ("workers", "number", "code"), [(1, signal.SIGINT, 130), (2, signal.SIGINT, 130), (2, signal.SIGTERM, 143)]
)
def test_interrupting_leaves_whole_shards(wav, tmp_path, model, workers, number, code):
    for i in range(10):
        wav(f"in/{i:02}.wav", 150.0)
    command = [sys.executable, "-m", "audiovq", "tokenize", tmp_path / "in", "-o", tmp_path / "out", "--model", model]
    command += ["--shard-files", "2", "--workers", str(workers)]

    def listen() -> None:
        """A shell's background jobs ignore interrupts, and hand that down to what they start."""
        signal.signal(number, signal.SIG_DFL)

    with subprocess.Popen(
        command, cwd=ROOT, preexec_fn=listen, stderr=subprocess.PIPE, start_new_session=True
    ) as running:
        for _ in range(6000):
            if (tmp_path / "out" / "shard-00000.tar").exists():
                break
            time.sleep(0.05)
        os.killpg(running.pid, number)  # as a terminal does: to all processes
        try:
            running.wait(timeout=60)
        finally:
            running.kill()
        error = running.stderr.read()
    assert (running.returncode, error) == (code, b"audiovq: interrupted\n")
    left = {path.name for path in (tmp_path / "out").iterdir()} - {".progress"}
    assert left
    assert left <= {f"shard-{i:05}.tar" for i in range(5)}


def children(pid):
    """Processes of a pool: those that multiprocessing has spawned to work."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                command = (path.parent / "cmdline").read_bytes()
                found += [int(path.parent.name)] * (b"spawn_main" in command)
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="lists processes as Linux does")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_is_killed_while_it_waits_does_not_hold_up_the_others(wav, tmp_path, model, victim):
    """It holds the lock of the queue of tasks; one of the two waits, the other is at work."""
    wav("in/00.wav", 1.0)
    wav("in/01.wav", 300.0)
    command = [sys.executable, "-m", "audiovq", "tokenize", "in", "-o", "out", "--model", model, "--shard-files", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--workers", "2"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE
    ) as running:
        for _ in range(6000):
            if (tmp_path / "out" / "shard-00000.tar").exists():
                break
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(children(running.pid)[victim], signal.SIGKILL)
        try:
            assert running.wait(timeout=60) == 1
        finally:
            running.kill()
            for pid in children(running.pid):
                os.kill(pid, signal.SIGKILL)


def test_a_killed_worker_is_one_line_and_the_next_call_goes_on(run, wav, tmp_path, model):
    for i in range(8):
        wav(f"in/{i:02}.wav", 100.0 if i else 1.0)
    options = ["--model", model, "--shard-files", "1"]
    command = [sys.executable, "-m", "audiovq", "tokenize", "in", "-o", "out", *options, "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as running:
        for _ in range(6000):
            if (tmp_path / "out" / "shard-00000.tar").exists():
                break
            time.sleep(0.05)
        os.kill(children(running.pid)[0], signal.SIGKILL)
        try:
            running.wait(timeout=60)
        finally:
            running.kill()
        error = running.stderr.read().decode()
    assert running.returncode == 1
    assert len(error.splitlines()) == 1
    assert error.startswith("audiovq: a process was killed")
    left = {path.name for path in (tmp_path / "out").iterdir()} - {".progress"}
    assert left < {f"shard-{i:05}.tar" for i in range(8)}
    assert run("tokenize", "in", "-o", "out", *options).code == 0
    assert run("tokenize", "in", "-o", "whole", *options).code == 0
    names = sorted(path.name for path in (tmp_path / "whole").iterdir() if path.is_file())
    assert len(names) == 9
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
