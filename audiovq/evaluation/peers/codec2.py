"""Codec 2, by c2enc and c2dec (Debian: codec2)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from audiovq.evaluation.pair import SAMPLE_RATE
from audiovq.evaluation.peers.tools import read_raw, run, write_raw
from audiovq.evaluation.system import Coded

_RATE = 8000


class Codec2:
    """Codec 2 at 8 kHz; speech is resampled to that and back with soxr."""

    tools, package, family, exact = ("c2enc", "c2dec"), "codec2", "Codec 2", False

    def __init__(self, mode: str) -> None:
        self.name = f"Codec2 {int(mode) / 1000:g}"
        self._mode = mode
        self.call = f"16 to 8 kHz by soxr; c2enc {mode}; c2dec {mode}; 8 to 16 kHz by soxr"

    def code(self, waveform: np.ndarray) -> Coded:
        import soxr

        with tempfile.TemporaryDirectory() as folder:
            source, coded, decoded = (Path(folder) / name for name in ("in.raw", "coded.bin", "out.raw"))
            # It drops what does not fill a frame of 40 ms.
            narrow = soxr.resample(waveform, SAMPLE_RATE, _RATE, quality="VHQ")
            write_raw(source, np.pad(narrow, (0, -len(narrow) % (_RATE // 25))))
            run("c2enc", self._mode, source, coded)
            run("c2dec", self._mode, coded, decoded)
            n_bytes = coded.stat().st_size
            return Coded(soxr.resample(read_raw(decoded), _RATE, SAMPLE_RATE, quality="VHQ"), n_bytes, n_bytes)
