"""A live pipe: what can be decoded comes out while the input is still open."""

from __future__ import annotations

import os
import select
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from tests.codec.tiny import HOP, RATE, make_codec, speech_like
from tests.data.tokenizing import save_model

SECONDS, PACKET = 3.0, 4


def behind() -> int:
    """Samples that a chain of encoder and decoder may hold back, by the look-ahead of its parts."""
    codec = make_codec()
    lookahead = codec.encoder_stream(3, PACKET).lookahead
    return PACKET * HOP + lookahead + (codec.decoder.context_frames + 1) * HOP


@pytest.mark.skipif(os.name != "posix", reason="waits on pipes")
def test_converted_speech_comes_while_the_source_speaks(tmp_path):
    model, samples = save_model(tmp_path / "model"), speech_like(SECONDS)
    soundfile.write(tmp_path / "me.wav", samples, RATE)
    soundfile.write(tmp_path / "anna.wav", speech_like(SECONDS, 3), RATE)
    command = [sys.executable, "-m", "audiovq", "convert", "-", "-o", "-", "--raw", "s16le", "--rate", str(RATE)]
    command += ["--model", model, "--packet", str(1000 * PACKET * HOP // RATE)]
    command += ["--from", str(tmp_path / "me.wav"), "--to", str(tmp_path / "anna.wav")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    data = np.round(samples * 32767).astype("<i2").tobytes()
    try:
        process.stdin.write(data)
        process.stdin.flush()
        expected, received = len(data) - 2 * behind(), b""
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
