"""AMR-WB, by the library vo-amrwbenc (Debian: libvo-amrwbenc0) and ffmpeg's decoder."""

from __future__ import annotations

import ctypes
import ctypes.util
import tempfile
from pathlib import Path

import numpy as np

from audiovq.evaluation.peers.tools import read_wav, run, to_int16
from audiovq.evaluation.system import Coded

FRAME = 320
_MODES = {6.6: 0, 8.85: 1, 12.65: 2}


def _library() -> ctypes.CDLL | None:
    for name in ("libvo-amrwbenc.so.0", ctypes.util.find_library("vo-amrwbenc")):
        try:
            if name:
                return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def has_encoder() -> bool:
    return _library() is not None


class AMRWB:
    """AMR-WB (ITU-T G.722.2) at one of its rates. No tool of Debian encodes it, so its library is called."""

    tools, package, family, exact = ("ffmpeg",), "ffmpeg", "AMR-WB", False

    def __init__(self, bitrate: float) -> None:
        self.name = f"AMR-WB {bitrate:g}"
        self._mode = _MODES[bitrate]
        self.call = f"E_IF_encode of libvo-amrwbenc, mode {self._mode}, no DTX; ffmpeg's amrwb decoder"

    def _encode(self, samples: np.ndarray) -> list[bytes]:
        library = _library()
        assert library is not None  # `has_encoder` was asked
        library.E_IF_init.restype = ctypes.c_void_p
        state = ctypes.c_void_p(library.E_IF_init())
        frames = []
        packet = ctypes.create_string_buffer(64)
        try:
            for start in range(0, len(samples), FRAME):
                frame = np.ascontiguousarray(samples[start : start + FRAME])
                speech = frame.ctypes.data_as(ctypes.POINTER(ctypes.c_short))
                n_bytes = library.E_IF_encode(state, ctypes.c_int(self._mode), speech, packet, ctypes.c_int(0))
                frames.append(packet.raw[:n_bytes])
        finally:
            library.E_IF_exit(state)
        return frames

    def code(self, waveform: np.ndarray) -> Coded:
        samples = to_int16(np.pad(waveform, (0, -len(waveform) % FRAME)))
        frames = self._encode(samples)
        with tempfile.TemporaryDirectory() as folder:
            coded, decoded = Path(folder) / "coded.awb", Path(folder) / "out.wav"
            coded.write_bytes(b"#!AMR-WB\n" + b"".join(frames))
            run("ffmpeg", "-v", "error", "-i", coded, "-c:a", "pcm_s16le", decoded)
            # A frame's first byte is the file's: it says which mode follows.
            payload = sum(len(frame) - 1 for frame in frames)
            return Coded(read_wav(decoded), payload, coded.stat().st_size)
