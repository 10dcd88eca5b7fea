"""Other codecs as baselines, through their command-line tools and libraries: Opus, Speex, Codec 2, AMR-WB."""

from __future__ import annotations

import ctypes
import logging
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import soundfile
import soxr

from audiovq.errors import AudioVQError
from audiovq.evaluation.protocol import SAMPLE_RATE, Coded

log = logging.getLogger(__name__)

_OPUS_SET_BANDWIDTH, _OPUS_WIDE_BAND = 4008, 1103  # opus_defines.h
_CODEC2_RATE = 8000
_AMR_FRAME = 320
_AMR_MODES = {6.6: 0, 8.85: 1, 12.65: 2}


class Baseline(ABC):
    """A codec of other authors; see `audiovq.evaluation.protocol.System`.

    Attributes:
        tools: programs and libraries that must be installed.
        package: the Debian packages that have them.
    """

    tools: ClassVar[tuple[str, ...]]
    package: ClassVar[str]
    exact: ClassVar[bool] = False
    n_codebooks: None = None
    name: str
    family: str
    call: str

    def code(self, waveform: np.ndarray) -> Coded:
        """Encode and decode (T,) float32 at 16 kHz.

        Raises:
            AudioVQError: when a tool fails.
        """
        with tempfile.TemporaryDirectory() as folder:
            return self._code(waveform, Path(folder))

    @abstractmethod
    def _code(self, waveform: np.ndarray, folder: Path) -> Coded:
        """The same, with a folder for temporary files."""


class OggCodec(Baseline):
    """A codec whose tools read WAV and write Ogg: commands to which the two files are added."""

    encoder: tuple[str, ...]
    decoder: tuple[str, ...]

    def _code(self, waveform: np.ndarray, folder: Path) -> Coded:
        source, coded, decoded = folder / "in.wav", folder / "coded.ogg", folder / "out.wav"
        soundfile.write(source, to_int16(waveform), SAMPLE_RATE, subtype="PCM_16")
        run_tool(*self.encoder, source, coded)
        run_tool(*self.decoder, coded, decoded)
        data = coded.read_bytes()
        return Coded(read_wav(decoded), sum(packet_sizes(data)[2:]), len(data))  # behind two header packets


class Opus(OggCodec):
    """``opusenc --speech`` with frames of 20 ms and variable bit rate, its defaults.

    By itself Opus codes only up to 4 kHz below about 9 kb/s; ``wide`` makes it keep 8 kHz at any rate.
    """

    tools, package, exact = ("opusenc", "opusdec"), "opus-tools", True
    decoder = ("opusdec", "--quiet", "--rate", "16000", "--float", "--no-dither")

    def __init__(self, bitrate: float, wide: bool = False) -> None:
        self.family = "Opus, forced to wide band" if wide else "Opus"
        self.name = f"Opus {bitrate:g}" + (" wide" if wide else "")
        options = ["--speech", "--bitrate", f"{bitrate:g}", "--framesize", "20"]
        if wide:
            options += ["--set-ctl-int", f"{_OPUS_SET_BANDWIDTH}={_OPUS_WIDE_BAND}"]
        self.encoder = ("opusenc", "--quiet", *options)
        self.call = " ".join(["opusenc", *options, "; opusdec --rate 16000 --float --no-dither"])


class Speex(OggCodec):
    """``speexenc -w --quality Q``, constant bit rate: 4, 5.8, 7.8, 9.8, 12.8 ... kb/s for Q = 0, 1, 2, 3, 4 ..."""

    tools, package, family = ("speexenc", "speexdec"), "speex", "Speex wide-band"
    decoder = ("speexdec",)

    def __init__(self, quality: int) -> None:
        self.name = f"Speex wb q{quality}"
        self.encoder = ("speexenc", "-w", "--quality", str(quality), "--comp", "10")
        self.call = " ".join([*self.encoder, "; speexdec"])


class Codec2(Baseline):
    """``c2enc`` and ``c2dec`` at 8 kHz; speech is resampled to that and back with soxr."""

    tools, package, family = ("c2enc", "c2dec"), "codec2", "Codec 2"

    def __init__(self, mode: str) -> None:
        self.name = f"Codec2 {int(mode) / 1000:g}"
        self._mode = mode
        self.call = f"16 to 8 kHz by soxr; c2enc {mode}; c2dec {mode}; 8 to 16 kHz by soxr"

    def _code(self, waveform: np.ndarray, folder: Path) -> Coded:
        source, coded, decoded = folder / "in.raw", folder / "coded.bin", folder / "out.raw"
        narrow = soxr.resample(waveform, SAMPLE_RATE, _CODEC2_RATE, quality="VHQ")
        # It drops what does not fill a frame of 40 ms.
        to_int16(np.pad(narrow, (0, -len(narrow) % (_CODEC2_RATE // 25)))).tofile(source)
        run_tool("c2enc", self._mode, source, coded)
        run_tool("c2dec", self._mode, coded, decoded)
        samples = np.fromfile(decoded, dtype="<i2").astype(np.float32) / 32768.0
        n_bytes = coded.stat().st_size
        return Coded(soxr.resample(samples, _CODEC2_RATE, SAMPLE_RATE, quality="VHQ"), n_bytes, n_bytes)


class AMRWB(Baseline):
    """AMR-WB (ITU-T G.722.2) at one of its rates, by the library vo-amrwbenc, as no tool of Debian encodes it."""

    tools, package, family = ("ffmpeg", "libvo-amrwbenc.so.0"), "ffmpeg libvo-amrwbenc0", "AMR-WB"

    def __init__(self, bitrate: float) -> None:
        self.name = f"AMR-WB {bitrate:g}"
        self._mode = _AMR_MODES[bitrate]
        self.call = f"E_IF_encode of libvo-amrwbenc, mode {self._mode}, no DTX; ffmpeg's amrwb decoder"

    def _encode(self, samples: np.ndarray) -> list[bytes]:
        library = ctypes.CDLL(self.tools[1])
        library.E_IF_init.restype = ctypes.c_void_p
        state = ctypes.c_void_p(library.E_IF_init())
        frames: list[bytes] = []
        packet = ctypes.create_string_buffer(64)
        try:
            for start in range(0, len(samples), _AMR_FRAME):
                frame = np.ascontiguousarray(samples[start : start + _AMR_FRAME])
                speech = frame.ctypes.data_as(ctypes.POINTER(ctypes.c_short))
                n_bytes = library.E_IF_encode(state, ctypes.c_int(self._mode), speech, packet, ctypes.c_int(0))
                frames.append(packet.raw[:n_bytes])
        finally:
            library.E_IF_exit(state)
        return frames

    def _code(self, waveform: np.ndarray, folder: Path) -> Coded:
        frames = self._encode(to_int16(np.pad(waveform, (0, -len(waveform) % _AMR_FRAME))))
        coded, decoded = folder / "coded.awb", folder / "out.wav"
        coded.write_bytes(b"#!AMR-WB\n" + b"".join(frames))
        run_tool("ffmpeg", "-v", "error", "-i", coded, "-c:a", "pcm_s16le", decoded)
        # The first byte of a frame belongs to the file format: it names the mode.
        return Coded(read_wav(decoded), sum(len(frame) - 1 for frame in frames), coded.stat().st_size)


def missing_tools(tools: Sequence[str]) -> list[str]:
    """Those of the programs and libraries that are not installed."""
    return [tool for tool in tools if shutil.which(tool) is None and not (".so" in tool and _is_library(tool))]


def _is_library(name: str) -> bool:
    try:
        return bool(ctypes.CDLL(name))
    except OSError:
        return False


def run_tool(*command: str | Path) -> None:
    """Run a tool without its output.

    Raises:
        AudioVQError: when it fails, with the last line of its standard error.
    """
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise AudioVQError(f"{command[0]} failed ({lines[-1]})")


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Full scale 1.0 -> 16-bit integers, clipped."""
    return np.clip(np.round(samples * 32768.0), -32768, 32767).astype("<i2")


def read_wav(path: Path) -> np.ndarray:
    """Samples (T,) float32 of a mono file at 16 kHz.

    Raises:
        AudioVQError: for another rate or more channels.
    """
    samples, sample_rate = soundfile.read(path, dtype="float32")
    if sample_rate != SAMPLE_RATE or samples.ndim != 1:
        raise AudioVQError(f"a decoder gave {sample_rate} Hz, shape {samples.shape}, not {SAMPLE_RATE} Hz mono")
    return samples


def packet_sizes(data: bytes) -> list[int]:
    """Bytes of each packet in an Ogg file with one logical stream (RFC 3533, section 6).

    Raises:
        ValueError: when it is no Ogg file.
    """
    sizes, position, open_size = [], 0, 0
    while position < len(data):
        if data[position : position + 4] != b"OggS":
            raise ValueError("not an Ogg page")
        n_segments = data[position + 26]
        table = data[position + 27 : position + 27 + n_segments]
        for segment in table:
            open_size += segment
            if segment < 255:  # a packet ends at its first segment that is not full
                sizes.append(open_size)
                open_size = 0
        position += 27 + n_segments + sum(table)
    return sizes


def make_baselines() -> list[Baseline]:
    """Every codec whose tools are installed; a warning in the log names the package of each that is not."""
    codecs: list[Baseline] = [
        *(Codec2(mode) for mode in ("1200", "2400", "3200")),
        *(Opus(rate) for rate in (6, 8, 12)),
        *(Opus(rate, wide=True) for rate in (6, 8)),
        *(Speex(quality) for quality in (0, 1, 2)),
        AMRWB(6.6),
    ]
    absent: dict[str, list[str]] = {}
    for codec in codecs:
        if missing_tools(codec.tools):
            absent.setdefault(codec.package, []).append(codec.name)
    for package, names in absent.items():
        log.warning("%s left out: the tools are not installed (Debian: %s)", ", ".join(names), package)
    return [codec for codec in codecs if codec.package not in absent]
