"""One recorded utterance of any corpus, reading it as mono 16 kHz samples, and prepared corpora on disk.

A prepared corpus is a folder with ``manifest.jsonl``, one line per utterance, and ``shard-00000.i16``,
``shard-00001.i16`` ... (little-endian int16 at 16 kHz, utterances end to end), which are memory-mapped. It is written
beside its place and renamed: a reader sees a whole corpus or none.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.media.samples import mix_down

SPLITS = ("train", "validation", "test", "unseen")


def split_of(basename: str) -> str:
    """One file in 20 is test, one validation, the rest train.

    ``basename`` is the source file's name with its extension and without its folder, so that neither where a corpus is
    unpacked nor how it is converted changes the split. Files of one name in several languages or folders stay together.
    """
    digest = hashlib.sha1(basename.encode(errors="surrogateescape")).hexdigest()
    return {0: "test", 1: "validation"}.get(int(digest, 16) % 20, "train")


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
        codes: (K, F) uint16.
        voice: (S,) int64, the quantized speaker vector.
        n_samples: at the codec's rate.
        pitch: (F,) uint8 pitch codes.
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
    """Length of an audio file by its header; `AudioVQError` for a file that cannot be decoded."""
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


# -- prepared corpora -------------------------------------------------------------------------------------------------

MANIFEST = "manifest.jsonl"
SHARD_SAMPLES = 64 * 1024 * 1024
"""A shard is closed once it holds this many samples (128 MB, 70 minutes)."""

_FIELDS = ("id", "speaker", "language", "text", "source", "licence", "split")
_OPTIONAL = ("group", "phones")


class Shard:
    """One memory-mapped file of samples. Opened at once, so that a corpus replaced later does not change under it."""

    def __init__(self, path: Path, file_id: int | None = None) -> None:
        self.path = path
        with path.open("rb") as file:
            self.file_id = os.fstat(file.fileno()).st_ino
            self.samples = np.memmap(file, dtype="<i2", mode="r")
        if file_id not in (None, self.file_id):
            raise AudioVQError(f"{path} was replaced while it was in use: start again")

    def __reduce__(self) -> tuple[type[Shard], tuple[Path, int]]:
        return Shard, (self.path, self.file_id)  # the place, not gigabytes of samples


@dataclass(frozen=True, slots=True)
class ShardReader:
    """The part of a shard that one utterance takes."""

    shard: Shard
    offset: int
    n_samples: int

    def read(self, start: int, n_samples: int | None) -> np.ndarray:
        start = min(max(start, 0), self.n_samples)
        stop = self.n_samples if n_samples is None else min(start + n_samples, self.n_samples)
        samples = self.shard.samples[self.offset + start : self.offset + stop]
        return np.multiply(samples, np.float32(1 / 32768), dtype=np.float32)


class ShardWriter:
    """Appends utterances to the shards of a corpus that is being written; made by `write_corpus`."""

    def __init__(self, folder: Path, shard_samples: int) -> None:
        self.folder, self.shard_samples = folder, shard_samples
        self.lines: list[dict[str, Any]] = []
        self._shard, self._offset = -1, shard_samples
        self._file: Any = None

    def add(self, samples: np.ndarray, **fields: Any) -> None:
        """Write one utterance: samples (T,), int16 or float in -1..1, with its manifest fields.

        ``group`` and ``phones`` (see `Utterance`) are optional; the phones of a group are those of any of its items.
        Further fields are kept in the manifest.
        """
        missing = [name for name in _FIELDS if name not in fields]
        if missing:
            raise ValueError(f"the manifest needs {', '.join(missing)}")
        if samples.dtype != np.int16:
            samples = np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16)
        if self._offset >= self.shard_samples:
            self.close()
            self._shard, self._offset = self._shard + 1, 0
            self._file = (self.folder / f"shard-{self._shard:05d}.i16").open("wb")
        self._file.write(samples.astype("<i2").tobytes())
        place = {"shard": self._shard, "offset": self._offset, "n_samples": len(samples)}
        self.lines.append({**fields, **place})
        self._offset += len(samples)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` when the block succeeds; on error nothing changes."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        if folder.exists():  # a folder that has files cannot be renamed over
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            folder.rename(old / folder.name)
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def write_corpus(folder: str | Path, shard_samples: int = SHARD_SAMPLES) -> Iterator[ShardWriter]:
    """Write a corpus and put it in place of ``folder`` when the block succeeds; on error nothing changes."""
    with atomic_folder(folder) as temporary:
        writer = ShardWriter(temporary, shard_samples)
        with closing(writer):
            yield writer
        with (temporary / MANIFEST).open("w", encoding="utf-8") as manifest:
            manifest.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in writer.lines)


def read_manifest(folder: str | Path) -> list[dict[str, Any]]:
    """The manifest's lines as they were written; `AudioVQError` when there is no corpus there."""
    path = Path(folder) / MANIFEST
    try:
        with path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except FileNotFoundError:
        raise AudioVQError(f"no prepared corpus in {folder}: {MANIFEST} is missing") from None
    except ValueError as error:
        raise AudioVQError(f"{path} is damaged ({error}): prepare the corpus again") from None


def open_shards(folder: str | Path, split: str | None = None) -> list[Utterance]:
    """The utterances of a prepared corpus, of one split or (None) of all, in the manifest's order.

    Raises:
        AudioVQError: when there is no corpus, or its shards do not fit its manifest.
    """
    folder = Path(folder)
    lines = read_manifest(folder)
    shards: dict[int, Shard] = {}
    for line in lines:
        if line["shard"] not in shards:
            path = folder / f"shard-{line['shard']:05d}.i16"
            try:
                shards[line["shard"]] = Shard(path)
            except (OSError, ValueError) as error:
                raise AudioVQError(f"cannot read {path} ({error}): prepare the corpus again") from None
        if line["offset"] + line["n_samples"] > len(shards[line["shard"]].samples):
            raise AudioVQError(f"shard {line['shard']} of {folder} is truncated: prepare the corpus again")
    phones = {_phones_key(line): tuple(map(tuple, line["phones"])) for line in lines if line.get("phones")}
    return [
        Utterance(
            **{name: line[name] for name in _FIELDS},
            seconds=line["n_samples"] / SAMPLE_RATE,
            reader=ShardReader(shards[line["shard"]], line["offset"], line["n_samples"]),
            group=line.get("group"),
            phones=phones.get(_phones_key(line)),
        )
        for line in lines
        if split is None or line["split"] == split
    ]


def _phones_key(line: dict[str, Any]) -> tuple[str, str]:
    """Items of a group share their phones."""
    return ("group", line["group"]) if line.get("group") else ("id", line["id"])


def write_shards(utterances: Iterable[Utterance], folder: str | Path, shard_samples: int = SHARD_SAMPLES) -> None:
    """Turn utterances of any corpus into a prepared one, whose parts are quick to read."""
    with write_corpus(folder, shard_samples) as writer:
        for utterance in utterances:
            optional = {name: getattr(utterance, name) for name in _OPTIONAL}
            fields = {name: getattr(utterance, name) for name in _FIELDS}
            fields |= {name: value for name, value in optional.items() if value is not None}
            writer.add(utterance.load(), **fields)
