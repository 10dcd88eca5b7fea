"""``audiovq serve``: refusals before anything is loaded, and a server that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from audiovq.web.server import listen


def test_without_gradio(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = run("serve")
    assert (done.code, done.lines) == (1, ["audiovq: serve needs the package gradio: pip install 'audiovq[web]'"])


@pytest.mark.parametrize("seconds", ["0", "601", "nan"])
def test_limits_of_the_limit(run, seconds):
    done = run("serve", "--max-seconds", seconds)
    assert (done.code, len(done.lines)) == (1, 1)
    assert done.err.startswith("audiovq: --max-seconds is 1 to 600, not ")


class TestWithGradio:
    @pytest.fixture(autouse=True)
    def _needs_gradio(self):
        pytest.importorskip("gradio", reason="the extra web is not installed")

    def test_no_such_model(self, run):
        done = run("serve", "--model", "nowhere", "--port", "0")
        assert (done.code, done.lines) == (1, ["audiovq: no model 'nowhere'"])

    def test_a_port_that_is_taken(self, run):
        with listen("127.0.0.1", 0) as sock:
            done = run("serve", "--port", sock.getsockname()[1])
        assert done.code == 1
        assert done.err.startswith("audiovq: cannot listen on 127.0.0.1 port ")

    @pytest.mark.parametrize("device", ["toaster", "cuda"])
    def test_no_such_device(self, run, device, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        done = run("serve", "--device", device, "--port", "0")
        assert (done.code, len(done.lines)) == (1, 1)
        assert done.err.startswith(f"audiovq: --device {device}: ")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_it_ends_when_asked_and_leaves_nothing(self, tmp_path, number):
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        command = [sys.executable, "-m", "tests.cli.stand_in", "serve", "--port", "0"]
        root = Path(__file__).parents[2]
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, cwd=root, text=True) as process:
            try:
                line = process.stderr.readline()
                assert line.startswith("audiovq: the page is at http://127.0.0.1:")
                address = line.split()[5]
                with urllib.request.urlopen(address, timeout=60) as answer:
                    assert answer.status == 200
                assert [name for name in os.listdir(tmp_path) if name.startswith("audiovq-serve-")]
                process.send_signal(number)
                assert process.wait(60) == 0
                assert process.stderr.read() == ""
            finally:
                process.kill()
        assert not [name for name in os.listdir(tmp_path) if name.startswith("audiovq-serve-")]
