"""Speex wide-band, by speexenc and speexdec (Debian: speex)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from audiovq.evaluation.peers.ogg import packet_sizes
from audiovq.evaluation.peers.tools import read_wav, run, write_wav
from audiovq.evaluation.system import Coded


class Speex:
    """``speexenc -w --quality Q``, constant bit rate: 4, 5.8, 7.8, 9.8, 12.8 ... kb/s for Q = 0, 1, 2, 3, 4 ..."""

    tools, package, family, exact = ("speexenc", "speexdec"), "speex", "Speex wide-band", False

    def __init__(self, quality: int) -> None:
        self.name = f"Speex wb q{quality}"
        self._options = ["-w", "--quality", str(quality), "--comp", "10"]
        self.call = " ".join(["speexenc", *self._options, "; speexdec"])

    def code(self, waveform: np.ndarray) -> Coded:
        with tempfile.TemporaryDirectory() as folder:
            source, coded, decoded = (Path(folder) / name for name in ("in.wav", "coded.spx", "out.wav"))
            write_wav(source, waveform)
            run("speexenc", *self._options, source, coded)
            run("speexdec", coded, decoded)
            data = coded.read_bytes()
            payload = sum(packet_sizes(data)[2:])  # behind the header and the comments
            return Coded(read_wav(decoded), payload, len(data))
