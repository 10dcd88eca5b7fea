"""Opus, by opusenc and opusdec (Debian: opus-tools)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from audiovq.evaluation.peers.ogg import packet_sizes
from audiovq.evaluation.peers.tools import read_wav, run, write_wav
from audiovq.evaluation.system import Coded

_SET_BANDWIDTH, _WIDE_BAND = 4008, 1103  # opus_defines.h


class Opus:
    """``opusenc --speech`` in frames of 20 ms, variable bit rate: its defaults.

    Left alone, Opus codes only up to 4 kHz below about 9 kb/s; ``wide`` makes it keep 8 kHz at any rate.
    """

    tools, package, exact = ("opusenc", "opusdec"), "opus-tools", True

    def __init__(self, bitrate: float, wide: bool = False) -> None:
        self.family = "Opus, forced to wide band" if wide else "Opus"
        self.name = f"Opus {bitrate:g}" + (" wide" if wide else "")
        self._options = ["--speech", "--bitrate", f"{bitrate:g}", "--framesize", "20"]
        if wide:
            self._options += ["--set-ctl-int", f"{_SET_BANDWIDTH}={_WIDE_BAND}"]
        self.call = " ".join(["opusenc", *self._options, "; opusdec --rate 16000 --float --no-dither"])

    def code(self, waveform: np.ndarray) -> Coded:
        with tempfile.TemporaryDirectory() as folder:
            source, coded, decoded = (Path(folder) / name for name in ("in.wav", "coded.opus", "out.wav"))
            write_wav(source, waveform)
            run("opusenc", "--quiet", *self._options, source, coded)
            run("opusdec", "--quiet", "--rate", "16000", "--float", "--no-dither", coded, decoded)
            data = coded.read_bytes()
            payload = sum(packet_sizes(data)[2:])  # behind OpusHead and OpusTags
            return Coded(read_wav(decoded), payload, len(data))
