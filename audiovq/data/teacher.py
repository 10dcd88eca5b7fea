"""What a recogniser's encoder makes of a corpus, kept on disk: what is said, frame by frame, for codes to learn from.

Codes that learn from such features as well as from sound keep more of the words and less of the voice (Zhang et al.
2024, SpeechTokenizer, section 3.2, with HuBERT as teacher; here it is the encoder of Whisper base).

Much of the variance of Whisper's states is where in its window something is said, which no code can know: the principal
components of the states are little else, and tell less of phones than MFCCs do. Some of the corpus is therefore heard
again at other places, and what is kept are the directions that come out the same (see `components`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from audiovq.data.tape import Tape
from audiovq.data.utterance import SAMPLE_RATE, Utterance
from audiovq.data.whisper import whisper_folder
from audiovq.errors import AudioVQError
from audiovq.io import atomic_write, cache_dir
from audiovq.optional import need

HOP = 320
"""Samples at 16 kHz from one feature to the next: Whisper's own 20 ms."""
DIM = 64
"""Components that are kept."""
WIDTH = 512
"""Of the encoder's states."""
_WINDOW = 30 * SAMPLE_RATE  # what Whisper hears at once
_LONGEST = 28 * SAMPLE_RATE  # of an utterance; longer ones are heard in parts
_GAP = SAMPLE_RATE // 2  # of silence between utterances in one window
_LEADS = (0, 7 * SAMPLE_RATE, 13 * SAMPLE_RATE)  # silence before what is heard: at first, and when heard again
_AGAIN = 20 * 60 * SAMPLE_RATE  # of the corpus, at most, is heard again
_PART = 100_000  # features that are projected at once
_FIRMNESS = 1e-3  # of the mean variance, added to all directions' own

Progress = Callable[[int, int], None]


class TeacherFeatures:
    """Features of utterances by their ids: (ceil(n_samples / HOP), DIM) float16 each."""

    def __init__(self, features: dict[str, np.ndarray]) -> None:
        self._features = features

    def reader(self, tape: Tape) -> TapeFeatures:
        """Features along a speaker's tape.

        Raises:
            AudioVQError: when an utterance of it was not heard.
        """
        missing = [u.id for u in tape.utterances if u.id not in self._features]
        if missing:
            raise AudioVQError(f"the teacher has not heard {missing[0]}: delete {cache_dir() / 'teacher'}")
        return TapeFeatures(tape, [self._features[u.id] for u in tape.utterances])


class TapeFeatures:
    """Features of the utterances of a tape end to end."""

    def __init__(self, tape: Tape, features: Sequence[np.ndarray]) -> None:
        self._tape = tape
        self._rows = np.concatenate(features)
        lengths = [len(one) for one in features]
        self._first = np.cumsum([0, *lengths[:-1]])
        self._last = np.cumsum(lengths) - 1

    def read(self, start: int, n_samples: int) -> np.ndarray:
        """Of a stretch, around the ring: (n_samples // HOP, DIM) float32, each of the middle of its 20 ms."""
        places = (start + HOP // 2 + HOP * np.arange(n_samples // HOP)) % self._tape.n_samples
        which = np.searchsorted(self._tape.ends, places, side="right")
        rows = self._first[which] + (places - self._tape.starts[which]) // HOP
        return self._rows[np.minimum(rows, self._last[which])].astype(np.float32)


def teacher_features(
    utterances: Sequence[Utterance], progress: Progress | None = None, fitted_on: Sequence[Utterance] | None = None
) -> TeacherFeatures:
    """The features of utterances, from the cache where they were heard before.

    Args:
        utterances: whose features are wanted.
        progress: told of samples heard, and how many there are.
        fitted_on: the utterances whose components are taken, which were heard before; None: their own.

    Raises:
        AudioVQError: when Whisper is not installed, or what is kept is damaged.
    """
    path = _path(utterances)
    if fitted_on is not None:
        path = path.with_name(f"{path.stem}-by-{_path(fitted_on).name}")
    try:
        if not path.is_file():
            basis = None
            if fitted_on is not None:
                with np.load(_path(fitted_on)) as fitted:
                    basis = fitted["mean"], fitted["basis"]
            _write(path, utterances, progress, basis)
        with np.load(path) as kept:
            rows, ends = kept["rows"], kept["ends"]
        pieces = np.split(rows, ends[:-1])
        return TeacherFeatures({u.id: piece for u, piece in zip(utterances, pieces, strict=True)})
    except (OSError, ValueError, KeyError) as error:
        raise AudioVQError(f"{path} is damaged ({error}): delete {path.parent}") from error


def _path(utterances: Sequence[Utterance]) -> Path:
    digest = hashlib.sha256("".join(f"{u.id}:{u.n_samples};" for u in utterances).encode()).hexdigest()[:16]
    return cache_dir() / "teacher" / f"whisper-base-{digest}.npz"


def _write(
    path: Path,
    utterances: Sequence[Utterance],
    progress: Progress | None,
    basis: tuple[np.ndarray, np.ndarray] | None,
) -> None:
    heard = _rows(utterances, _LEADS[0], progress)
    if basis is None:
        some = _some(utterances)
        again = [_rows(some, lead) for lead in _LEADS[1:]]
        hearings = [np.concatenate([hearing[u.id] for u in some]) for hearing in (heard, *again)]
        basis = components(hearings)
    mean, vectors = basis
    ends = np.cumsum([len(heard[u.id]) for u in utterances])
    rows = np.concatenate([heard[u.id] for u in utterances])
    parts = np.array_split(rows, max(len(rows) // _PART, 1))
    projected = np.concatenate([((part.astype(np.float64) - mean) @ vectors).astype(np.float16) for part in parts])
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, rows=projected, ends=ends, mean=mean, basis=vectors)


def _rows(utterances: Sequence[Utterance], lead: int, progress: Progress | None = None) -> dict[str, np.ndarray]:
    """Features (n, WIDTH) of each utterance."""
    heard: dict[str, list[np.ndarray]] = {u.id: [np.zeros((0, WIDTH), np.float16)] for u in utterances}
    n_heard, n_samples = 0, sum(u.n_samples for u in utterances)
    for name, rows in _hear(utterances, lead):
        heard[name].append(rows)
        n_heard += len(rows) * HOP
        if progress:
            progress(min(n_heard, n_samples), n_samples)
    return {name: np.concatenate(parts) for name, parts in heard.items()}


def _some(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Utterances from all over the corpus, as many as are heard again."""
    n_samples = sum(u.n_samples for u in utterances)
    return list(utterances[:: max(round(n_samples / _AGAIN), 1)])


def components(hearings: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean (C,) of features, and the directions (C, DIM) that depend least on where something was heard.

    They have the largest shares of their variance in common between hearings (a generalized eigenvalue problem, as of
    linear discriminant analysis with each frame as a class), surest first, and a variance of one.

    Args:
        hearings: features (N, C) of the same N frames, heard at different places of the window.
    """
    mean = np.mean([rows.mean(axis=0, dtype=np.float64) for rows in hearings], axis=0)
    centred = [rows.astype(np.float64) - mean for rows in hearings]
    n = sum(map(len, centred))
    whole = sum(rows.T @ rows for rows in centred) / n
    total = np.sum(centred, axis=0)
    # The products of each hearing with each other one are those of the sum, less those with itself.
    common = (total.T @ total - n * whole) / (n * (len(centred) - 1))
    firm = whole + _FIRMNESS * np.trace(whole) / len(whole) * np.eye(len(whole))
    _, vectors = need("scipy.linalg", "a teacher of what is said").eigh(common, firm)
    return mean, vectors[:, -DIM:][:, ::-1]


def _hear(utterances: Sequence[Utterance], lead: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Ids and features (n, WIDTH) float16 of utterances, or of the parts of long ones, in order; see `windows`."""
    whisper = need("faster_whisper", "a teacher of what is said")
    folder = whisper_folder("a teacher of what is said")
    model = whisper.WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True)
    for group in windows(utterances, lead):
        window = np.zeros(_WINDOW, np.float32)
        for utterance, start, length, place in group:
            samples = utterance.load(start, length)[:length]
            window[place : place + len(samples)] = samples
        states = model.encode(model.feature_extractor(window)[:, : _WINDOW // 160])
        rows = np.asarray(states)[0]
        for utterance, _, length, place in group:
            yield utterance.id, rows[place // HOP : place // HOP - (-length // HOP)].astype(np.float16)


def windows(utterances: Sequence[Utterance], lead: int = 0) -> Iterator[list[tuple[Utterance, int, int, int]]]:
    """What is heard at once: utterances or parts of them, (utterance, start, length, place in the window).

    Each window begins with ``lead`` samples of silence.
    """
    group: list[tuple[Utterance, int, int, int]] = []
    place, longest = lead, _LONGEST - lead
    for utterance in utterances:
        for start in range(0, utterance.n_samples, longest):
            length = min(utterance.n_samples - start, longest)
            if place + length > _WINDOW:
                yield group
                group, place = [], lead
            group.append((utterance, start, length, place))
            place += -(-(length + _GAP) // HOP) * HOP
    if group:
        yield group
