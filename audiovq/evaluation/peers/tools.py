"""Run other people's command line tools on arrays."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.evaluation.pair import SAMPLE_RATE


def missing(tools: Sequence[str]) -> list[str]:
    """Which of the tools are not installed."""
    return [tool for tool in tools if shutil.which(tool) is None]


def run(*command: str | Path) -> None:
    """Run a tool quietly.

    Raises:
        AudioVQError: when it fails, with the last line it wrote.
    """
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise AudioVQError(f"{command[0]} failed ({lines[-1]})")


def to_int16(samples: np.ndarray) -> np.ndarray:
    return np.clip(np.round(samples * 32768.0), -32768, 32767).astype("<i2")


def from_int16(samples: np.ndarray) -> np.ndarray:
    return samples.astype(np.float32) / 32768.0


def write_raw(path: Path, samples: np.ndarray) -> None:
    """16-bit little-endian samples with no header."""
    to_int16(samples).tofile(path)


def read_raw(path: Path) -> np.ndarray:
    return from_int16(np.fromfile(path, dtype="<i2"))


def write_wav(path: Path, samples: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    import soundfile

    soundfile.write(path, to_int16(samples), sample_rate, subtype="PCM_16")


def read_wav(path: Path) -> np.ndarray:
    """Samples (T,) of a mono file at 16 kHz.

    Raises:
        AudioVQError: when it is something else.
    """
    import soundfile

    samples, sample_rate = soundfile.read(path, dtype="float32")
    if sample_rate != SAMPLE_RATE or samples.ndim != 1:
        raise AudioVQError(f"a decoder gave {sample_rate} Hz, shape {samples.shape}; {SAMPLE_RATE} Hz mono was wanted")
    return samples
