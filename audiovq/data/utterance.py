"""One recorded utterance, whatever corpus it came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

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
