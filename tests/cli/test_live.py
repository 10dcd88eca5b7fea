"""A live pipe: what can be decoded comes out while the input is still open."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from audiovq.cli import main
from audiovq.conversion.files import LIVE_DECODER, LIVE_ENCODER
from tests.codec.tiny import HOP, RATE, make_codec, speech_like
from tests.data.tokenizing import save_model

SECONDS, PACKET = 3.0, 4


def behind(live: bool) -> int:
    """Samples that a chain of encoder and decoder may hold back, by the look-ahead of its parts."""
    codec = make_codec()
    if live:
        return PACKET * HOP + round((LIVE_ENCODER + LIVE_DECODER) * RATE)
    lookahead = codec.encoder_stream(3, PACKET).lookahead
    return PACKET * HOP + lookahead + (codec.decoder.context_frames + 1) * HOP


@pytest.mark.skipif(os.name != "posix", reason="waits on pipes")
@pytest.mark.parametrize("live", [False, True])
def test_converted_speech_comes_while_the_source_speaks(tmp_path, live):
    model, samples = save_model(tmp_path / "model"), speech_like(SECONDS)
    soundfile.write(tmp_path / "me.wav", samples, RATE)
    soundfile.write(tmp_path / "anna.wav", speech_like(SECONDS, 3), RATE)
    command = [sys.executable, "-m", "audiovq", "convert", "-", "-o", "-", "--raw", "s16le", "--rate", str(RATE)]
    command += ["--model", model, "--packet", str(1000 * PACKET * HOP // RATE)]
    command += ["--from", str(tmp_path / "me.wav"), "--to", str(tmp_path / "anna.wav"), *["--live"] * live]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE if live else None}
    process = subprocess.Popen(command, env=environment, **pipes)
    data = np.round(samples * 32767).astype("<i2").tobytes()
    try:
        if live:  # everything is loaded before anything is read
            while line := process.stderr.readline():
                if b"ready" in line:
                    break
            assert line
        process.stdin.write(data)
        process.stdin.flush()
        expected, received = len(data) - 2 * behind(live), b""
        assert expected > len(data) // 4
        while len(received) < expected:
            assert select.select([process.stdout], [], [], 120)[0], f"{len(received)} of {expected} bytes came"
            received += os.read(process.stdout.fileno(), 1 << 16)
        process.stdin.close()
        received += process.stdout.read()
        assert process.wait() == 0
        assert len(received) == len(data)
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.wav", "-o", "b.wav"], "--live needs --from"),
        (
            ["a.avq", "-o", "b.wav", "--from", "a.wav"],
            "--live and --from are for audio|--from and --live are for audio",
        ),
        (
            ["a.avq", "-o", "b.avq", "--from", "a.wav"],
            "--live and --from are for audio|--from and --live are for audio",
        ),
        (["a.wav", "-o", "b.wav", "--from", "a.wav", "--decoder", "wavenet"], "no decoder|cannot be chosen"),
    ],
)
def test_live_conversion_that_cannot_be_is_one_line(tmp_path, monkeypatch, capfd, arguments, message):
    model = save_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", speech_like(SECONDS), RATE)
    assert main(["encode", "a.wav", "-o", "a.avq", "--model", model]) == 0
    capfd.readouterr()
    assert main(["convert", *arguments, "--live", "--to", "a.wav", "--model", model]) != 0
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert not list(tmp_path.glob("b.*"))


def test_a_live_pipe_of_coded_speech_is_refused(tmp_path):
    model, samples = save_model(tmp_path / "model"), speech_like(SECONDS)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    assert main(["encode", str(tmp_path / "a.wav"), "-o", str(tmp_path / "a.avq"), "--model", model]) == 0
    command = [sys.executable, "-m", "audiovq", "convert", "-", "-o", "-", "--live", "--model", model]
    command += ["--from", str(tmp_path / "a.wav"), "--to", str(tmp_path / "a.wav")]
    data = (tmp_path / "a.avq").read_bytes()
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=600)
    assert done.returncode == 1
    assert not done.stdout
    assert b"standard input: live conversion is for audio" in done.stderr.splitlines()[-1]
    assert b"Traceback" not in done.stderr


def test_a_file_converted_live_has_its_length(tmp_path):
    model, samples = save_model(tmp_path / "model"), speech_like(SECONDS)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    settings = ["--model", model, "--from", str(tmp_path / "a.wav"), "--to", str(tmp_path / "a.wav")]
    for name, more in (("whole.wav", []), ("live.wav", ["--live"])):
        command = ["convert", str(tmp_path / "a.wav"), "-o", str(tmp_path / name), "--packet", "80", *settings, *more]
        assert main(command) == 0
    whole, live = (soundfile.read(tmp_path / name)[0] for name in ("whole.wav", "live.wav"))
    assert len(live) == len(whole) == len(samples)
    assert not np.array_equal(live, whole)
