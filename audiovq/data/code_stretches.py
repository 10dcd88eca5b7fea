"""Stretches of coded speech: drawn for training, or each code once for measuring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from audiovq.data.utterance import CodedUtterance


class CodeTape:
    """All of a speaker's coded utterances end to end, in a ring: see `audiovq.data.crops.Tape`.

    Attributes:
        utterances: in their order.
        streams: (S, F) uint16, pitch first, then the codebooks.
        starts: first frame of each utterance.
    """

    def __init__(self, utterances: Sequence[CodedUtterance]) -> None:
        self.utterances = list(utterances)
        self.streams = np.concatenate([streams_of(u) for u in utterances], axis=1)
        self.starts = np.cumsum([0, *(u.n_frames for u in utterances[:-1])])

    @property
    def codes(self) -> np.ndarray:
        """(K, F) uint16."""
        return self.streams[1:]

    @property
    def pitch(self) -> np.ndarray:
        """(F,) uint16 pitch codes."""
        return self.streams[0]

    @property
    def n_frames(self) -> int:
        return self.streams.shape[1]

    def read(self, start: int, n_frames: int) -> np.ndarray:
        """Streams (S, n_frames) int64 from ``start`` on, around the ring."""
        return self.streams.take(np.arange(start, start + n_frames), axis=1, mode="wrap").astype(np.int64)

    def at(self, frame: int) -> CodedUtterance:
        """The utterance that a frame belongs to."""
        return self.utterances[int(np.searchsorted(self.starts, frame % self.n_frames, side="right")) - 1]


def streams_of(utterance: CodedUtterance) -> np.ndarray:
    """Streams (S, F) uint16 of one utterance: pitch first, then the codebooks."""
    return np.concatenate([utterance.pitch[None].astype(np.uint16), utterance.codes])


def make_tapes(utterances: Sequence[CodedUtterance]) -> list[CodeTape]:
    """A tape for each speaker, by name."""
    by_speaker: dict[str, list[CodedUtterance]] = {}
    for utterance in utterances:
        by_speaker.setdefault(utterance.speaker, []).append(utterance)
    return [CodeTape(by_speaker[name]) for name in sorted(by_speaker)]


class CodeStretches(Dataset[dict[str, Any]]):
    """Item i is decided by ``(seed, i)`` alone, so that a run resumes exactly.

    Half of the items begin where a recording begins and see no frame before it; the others begin anywhere. The speaker
    vector is that of a random recording of the same tape: at sampling it comes from elsewhere, too.

    Items: ``codes``, streams (S, F) with ``absent`` for codebooks that are left out, ``before``, the frame before them,
    ``voice``, a quantized speaker vector, ``language``, ``keep_speaker``, ``keep_language``.

    Args:
        tapes: from `make_tapes`.
        languages: that have numbers.
        n_frames: F.
        absent: the number that stands for no code.
        seed: of all draws.
        condition_dropout: probability with which each condition is left out.
        book_dropout: probability that only the first few codebooks are shown.
        temper: the exponent of the speakers' durations.
    """

    def __init__(
        self,
        tapes: Sequence[CodeTape],
        languages: Sequence[str],
        n_frames: int,
        absent: int,
        seed: int,
        condition_dropout: float,
        book_dropout: float,
        temper: float = 0.8,
    ) -> None:
        self.tapes, self.languages, self.n_frames = tapes, {name: i for i, name in enumerate(languages)}, n_frames
        self.absent, self.seed = absent, seed
        self.condition_dropout, self.book_dropout = condition_dropout, book_dropout
        weights = np.array([tape.n_frames for tape in tapes], np.float64) ** temper
        self._cumulative = np.cumsum(weights / weights.sum())

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, index))
        tape = self.tapes[min(int(np.searchsorted(self._cumulative, rng.random())), len(self.tapes) - 1)]
        n_books = len(tape.codes)
        if rng.random() < 0.5:
            start = int(rng.choice(tape.starts))
            before = np.full(len(tape.streams), self.absent)
        else:
            start = int(rng.integers(tape.n_frames))
            before = tape.read(start - 1, 1)[:, 0]
        codes = tape.read(start, self.n_frames)
        if rng.random() < self.book_dropout and n_books > 1:
            shown = 1 + int(rng.integers(1, n_books))
            codes[shown:] = before[shown:] = self.absent
        voice = tape.utterances[int(rng.integers(len(tape.utterances)))].voice
        return {
            "codes": torch.from_numpy(codes),
            "before": torch.from_numpy(before),
            "voice": torch.from_numpy(voice),
            "language": self.languages.get(tape.at(start).language, -1),
            "keep_speaker": rng.random() >= self.condition_dropout,
            "keep_language": rng.random() >= self.condition_dropout,
        }


class CodeRuns(Dataset[dict[str, Any]]):
    """Every speaker's utterances end to end in runs of ``n_frames``, each code once; short runs end in absent codes.

    The first frame of a recording's run sees what the one before ended with, except at the start of a tape.
    """

    def __init__(self, tapes: Sequence[CodeTape], languages: Sequence[str], n_frames: int, absent: int) -> None:
        self.languages = {name: i for i, name in enumerate(languages)}
        self.n_frames, self.absent = n_frames, absent
        self.places = [(tape, start) for tape in tapes for start in range(0, tape.n_frames, n_frames)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        tape, start = self.places[index]
        n = min(self.n_frames, tape.n_frames - start)
        codes = np.full((len(tape.streams), self.n_frames), self.absent)
        codes[:, :n] = tape.read(start, n)
        before = tape.read(start - 1, 1)[:, 0] if start else np.full(len(codes), self.absent)
        return {
            "codes": torch.from_numpy(codes),
            "before": torch.from_numpy(before),
            "voice": torch.from_numpy(tape.at(start).voice),
            "language": self.languages.get(tape.at(start).language, -1),
        }
