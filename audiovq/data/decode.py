"""Reading recordings of many formats as mono 16 kHz samples."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audiovq.data.utterance import SAMPLE_RATE
from audiovq.errors import AudioVQError


def read_native(path: str | Path) -> tuple[np.ndarray, int]:
    """Mono float32 samples (T,) of a file at its own rate, and that rate in Hz. Channels are averaged.

    libsndfile reads wav, flac, ogg, opus and mp3; the rest (raw G.722 among it) needs the ffmpeg command.

    Raises:
        AudioVQError: for a file that cannot be decoded.
    """
    import soundfile

    path = Path(path)
    if path.suffix == ".g722":
        return _ffmpeg(path, "-f", "g722"), SAMPLE_RATE
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        if not path.is_file():
            raise AudioVQError(f"no such file: {path}") from None
        if shutil.which("ffmpeg") is None:
            raise AudioVQError(f"cannot decode {path}: {error}") from None
        return _ffmpeg(path), SAMPLE_RATE
    return samples.mean(axis=1), int(rate)


def _ffmpeg(path: Path, *options: str) -> np.ndarray:
    command = ["ffmpeg", "-nostdin", "-v", "error", *options, "-i", str(path)]
    command += ["-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "-"]
    try:
        result = subprocess.run(command, capture_output=True, check=True)
    except FileNotFoundError:
        raise AudioVQError(f"decoding {path} needs the ffmpeg command: install the package ffmpeg") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.decode(errors="replace").strip().splitlines() or ["ffmpeg failed"])[-1]
        raise AudioVQError(f"cannot decode {path}: {reason}") from None
    return np.frombuffer(result.stdout, "<f4").copy()


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Float32 samples (T,) at ``rate`` Hz to 16 kHz."""
    import soxr

    if rate == SAMPLE_RATE or not len(samples):
        return samples
    return soxr.resample(samples, rate, SAMPLE_RATE, quality="VHQ").astype(np.float32)


@dataclass(frozen=True, slots=True)
class FileReader:
    """An audio file of any rate as an utterance's `Reader`: decoded whole, then cut."""

    path: str

    def read(self, start: int, n_samples: int | None) -> np.ndarray:
        samples = resample(*read_native(self.path))
        start = max(start, 0)
        return samples[start : None if n_samples is None else start + n_samples]
