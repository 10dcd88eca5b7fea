"""One recorded utterance, whatever corpus it came from, and reading of recordings as mono 16 kHz samples."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.media.samples import mix_down

SPLITS = ("train", "validation", "test", "unseen")


def split_of(basename: str) -> str:
    """One file in 20 is test, one validation, the rest train.

    Args:
        basename: the source file's name with its extension and without its folder, so that neither where a corpus is
            unpacked nor how it is converted changes the split. Files of one name in several languages or folders
            stay together.
    """
    match int(hashlib.sha1(basename.encode(errors="surrogateescape")).hexdigest(), 16) % 20:
        case 0:
            return "test"
        case 1:
            return "validation"
        case _:
            return "train"


SAMPLE_RATE = 16000
"""Every corpus is read at this rate, in Hz."""


class Reader(Protocol):
    """Where an utterance's samples are. Must pickle, so that loader processes can have it."""

    def read(self, start: int, n_samples: int | None) -> np.ndarray:
        """Mono float32 samples ``start`` to ``start + n_samples`` (or to the end) at 16 kHz; shorter at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Utterance:
    """What is known of a recording, and how to read it.

    Attributes:
        id: unique within its corpus.
        speaker: ``corpus/name``: the same voice has the same speaker, in all splits and languages.
        language: ISO 639 code, or "und" when nobody said.
        text: what is said, when there is a transcript.
        source: the package or corpus it came from.
        licence: of the recording.
        split: "train", "validation", "test" or "unseen" (speakers that no split trains on).
        seconds: its length.
        sample_rate: in Hz, always 16000.
        group: name shared by recordings of the same sentence that are aligned sample by sample, in corpora that have
            such groups.
        phones: end time in seconds and symbol of each phone, in order, in corpora that have them.
    """

    id: str
    speaker: str
    language: str
    text: str | None
    source: str
    licence: str
    split: str
    seconds: float
    reader: Reader = field(repr=False, compare=False)
    sample_rate: int = SAMPLE_RATE
    group: str | None = None
    phones: tuple[tuple[float, str], ...] | None = field(default=None, repr=False)

    @property
    def n_samples(self) -> int:
        return round(self.seconds * self.sample_rate)

    def load(self, start: int = 0, n_samples: int | None = None) -> np.ndarray:
        """Mono float32 samples (T,) in -1..1 at 16 kHz, or only ``n_samples`` of them from ``start`` on.

        A part is cheap when the corpus is in shards; other files are decoded whole.
        """
        return self.reader.read(start, n_samples)


@dataclass(frozen=True, slots=True)
class CodedUtterance:
    """One recording as codes.

    Attributes:
        id, speaker, language, split: as in `Utterance`.
        codes: (K, F) uint16, a view of the memory-mapped file.
        voice: (S,) int64, the quantized speaker vector.
        n_samples: at the codec's rate.
        pitch: (F,) uint8 pitch codes, a view of the memory-mapped file.
        levels: (P,) uint8 level codes, one for each packet.
    """

    id: str
    speaker: str
    language: str
    split: str
    codes: np.ndarray
    voice: np.ndarray
    n_samples: int
    pitch: np.ndarray
    levels: np.ndarray

    @property
    def n_frames(self) -> int:
        return self.codes.shape[1]


def _name(path: str | Path) -> str | bytes:
    """A path as soundfile takes it, which does not know names that are not UTF-8."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def read_native(path: str | Path) -> tuple[np.ndarray, int]:
    """Mono float32 samples (T,) of a file at its own rate, and that rate in Hz. For several channels see
    `audiovq.media.samples`.

    libsndfile reads wav, flac, ogg, opus and mp3; the rest (raw G.722 among it) needs the ffmpeg command.

    Raises:
        AudioVQError: for a file that cannot be decoded.
    """
    import soundfile

    path = Path(path)
    if path.suffix == ".g722":
        return _ffmpeg(path, "-f", "g722"), SAMPLE_RATE
    try:
        samples, rate = soundfile.read(_name(path), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        if not path.is_file():
            raise AudioVQError(f"no such file: {path}") from None
        if shutil.which("ffmpeg") is None:
            raise AudioVQError(f"cannot decode {path}: {error}") from None
        return _ffmpeg(path), SAMPLE_RATE
    return mix_down(samples, int(rate)), int(rate)


def _ffmpeg(path: Path, *options: str) -> np.ndarray:
    import soundfile

    command = ["ffmpeg", "-nostdin", "-v", "error", *options, "-i", str(path), "-vn"]
    command += ["-ar", str(SAMPLE_RATE), "-c:a", "pcm_f32be", "-f", "au", "-"]  # says its channels, needs no length
    try:
        result = subprocess.run(command, capture_output=True, check=True)
    except FileNotFoundError:
        raise AudioVQError(f"decoding {path} needs the ffmpeg command: install the package ffmpeg") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.decode(errors="replace").strip().splitlines() or ["ffmpeg failed"])[-1]
        raise AudioVQError(f"cannot decode {path}: {reason}") from None
    samples, _ = soundfile.read(io.BytesIO(result.stdout), dtype="float32", always_2d=True)
    return mix_down(samples, SAMPLE_RATE)


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Float32 samples (T,) at ``rate`` Hz to 16 kHz."""
    import soxr

    if rate == SAMPLE_RATE or not len(samples):
        return samples
    return soxr.resample(samples, rate, SAMPLE_RATE, quality="VHQ").astype(np.float32)


def seconds_of(path: str | Path) -> float:
    """Length of an audio file by its header.

    Raises:
        AudioVQError: for a file that cannot be decoded.
    """
    import soundfile

    try:
        info = soundfile.info(_name(path))
    except soundfile.LibsndfileError:
        samples, rate = read_native(path)
        return len(samples) / rate
    return info.frames / info.samplerate


@dataclass(frozen=True, slots=True)
class FileReader:
    """An audio file of any rate as an utterance's `Reader`; it is decoded whole."""

    path: str

    def read(self, start: int, n_samples: int | None) -> np.ndarray:
        samples = resample(*read_native(self.path))
        return samples[max(start, 0) : None if n_samples is None else max(start, 0) + n_samples]
