"""The parts that protocols share: pairs of recordings, metrics, systems, excerpts of a corpus, delays, means."""

from __future__ import annotations

import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
from scipy.stats import t

from audiovq.errors import AudioVQError
from audiovq.io import atomic_write

if TYPE_CHECKING:
    from audiovq.data.utterance import Utterance


@dataclass(frozen=True)
class Score:
    """A metric's value for one item, and the item's weight in the mean (words of a text; else 1)."""

    value: float
    weight: float = 1.0


@dataclass(frozen=True)
class Mean:
    """A weighted mean; ``ci95`` is half the width of its 95 % confidence interval, None for fewer than two scores."""

    mean: float
    ci95: float | None
    n: int

    def text(self, decimals: int, factor: float = 1.0, signed: bool = False) -> str:
        """``mean ±ci95`` with so many decimals, both multiplied by ``factor``; ``signed``: a plus is shown."""
        interval = "" if self.ci95 is None else f" ±{factor * self.ci95:.{decimals}f}"
        return f"{factor * self.mean:{'+' if signed else ''}.{decimals}f}{interval}"


def mean_of(scores: Sequence[Score]) -> Mean | None:
    """The weighted mean ``sum(w x) / sum(w)`` with Student's interval; None when there is nothing to average.

    The variance is that of a ratio estimator (Cochran, Sampling Techniques, 1977, section 6.4),
    ``n / (n - 1) * sum(w^2 (x - mean)^2) / sum(w)^2``, which for equal weights is the usual ``s^2 / n``. Items are
    taken as independent, so the interval is about other recordings of these speakers, not about other speakers.
    """
    weights = np.array([score.weight for score in scores], dtype=np.float64)
    if not len(weights) or weights.sum() <= 0:
        return None
    values = np.array([score.value for score in scores], dtype=np.float64)
    mean, n = float(np.average(values, weights=weights)), len(values)
    if n < 2:
        return Mean(mean, None, n)
    variance = n / (n - 1) * np.sum((weights * (values - mean)) ** 2) / weights.sum() ** 2
    return Mean(mean, float(t.ppf(0.975, n - 1) * np.sqrt(variance)), n)


SAMPLE_RATE = 16000
"""Rate in Hz at which every metric compares both sides."""
EXCERPT_SECONDS, SHORTEST_SECONDS = 6.0, 3.0
"""An excerpt is complete at the first length; a speaker's last one may have the second."""
RAMP = SAMPLE_RATE * 5 // 1000
DELAY_STEP = SAMPLE_RATE // 1000
"""Resolution of the delay search in samples: 1 ms."""

Progress = Callable[[str, int, int], None]
"""Called with the current activity, the items done, and the number of items."""
T = TypeVar("T")


def silent(what: str, done: int, total: int) -> None:
    """A `Progress` that reports nothing."""


def tracked(items: Sequence[T], what: str, progress: Progress) -> Iterator[T]:
    """The items one by one, with their progress."""
    for done, item in enumerate(items):
        progress(what, done, len(items))
        yield item


def fingerprint(samples: np.ndarray, *more: object) -> str:
    """A key for samples (T,) and whatever else a result depends on."""
    digest = hashlib.sha256(np.ascontiguousarray(samples, np.float32).tobytes())
    digest.update(repr(more).encode())
    return digest.hexdigest()[:40]


def remembered(compute: Callable[..., T]) -> Callable[..., T]:
    """``compute(samples, *more)``, but each result is computed once; only a fingerprint of the samples is kept."""
    known: dict[str, T] = {}

    def call(samples: np.ndarray, *more: object) -> T:
        key = fingerprint(samples, *more)
        if key not in known:
            known[key] = compute(samples, *more)
        return known[key]

    return call


class ScoreCache:
    """Results by what they were computed from, in JSON files of a folder: a second run computes only what is new."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, kind: str, key: str, make: Callable[[], Any]) -> Any:
        """The value of JSON under ``key``, of everything it depends on (see `fingerprint`); made where it is missing.

        ``kind`` has a version when the meaning of results changes.
        """
        path = self.folder / kind / f"{key}.json"
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            value = make()
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(value))
        return value


@dataclass(frozen=True)
class Pair:
    """A recording and its degraded version, both (T,) float32 at 16 kHz: the input of a metric.

    Languages are ISO 639 codes, ids unique within an evaluation.

    Raises:
        AudioVQError: for samples that are NaN or infinite.
    """

    id: str
    reference: np.ndarray
    degraded: np.ndarray
    speaker: str | None = None
    language: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if self.reference.ndim != 1 or self.reference.shape != self.degraded.shape:
            raise ValueError(f"{self.id}: shapes {self.reference.shape} and {self.degraded.shape} are no pair")
        for name, samples in (("reference", self.reference), ("degraded", self.degraded)):
            if not np.isfinite(samples).all():
                raise AudioVQError(f"{self.id}: the {name} recording has samples that are NaN or infinite")

    @property
    def seconds(self) -> float:
        return len(self.reference) / SAMPLE_RATE


class Metric(ABC):
    """A score for pairs. Its constructor imports and loads all it needs, so that a missing package is reported first.

    The name is for options and JSON, label and decimals for tables. For a deviation, whose best value is 0, neither
    higher nor lower is better (None). One with ``no_reference`` also rates the reference recordings themselves.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    higher_is_better: ClassVar[bool | None] = True
    decimals: ClassVar[int] = 2
    no_reference: ClassVar[bool] = False

    @abstractmethod
    def score(self, pair: Pair) -> Score | None:
        """The score of ``pair.degraded``; None where the reference cannot be judged (silence, unknown language)."""


@dataclass(frozen=True)
class Coded:
    """One recording after encoding and decoding: (T',) float32 at 16 kHz, T' may differ from the input's length.

    The payload is the coded speech; the file has headers, checksums and the container as well.
    """

    waveform: np.ndarray
    payload_bytes: int
    file_bytes: int


class System(Protocol):
    """A codec at one setting; ``name`` is unique in a report, ``call`` the command line or settings.

    Systems of one family are one line in a plot. The output of an ``exact`` one is aligned to the sample; otherwise a
    common delay is estimated and removed.
    """

    name: str
    family: str
    call: str
    exact: bool
    n_codebooks: int | None

    def code(self, waveform: np.ndarray) -> Coded:
        """Encode and decode (T,) float32 at 16 kHz."""
        ...


@dataclass(frozen=True)
class Excerpt:
    """Consecutive utterances of one speaker in one language, joined end to end."""

    id: str
    speaker: str
    language: str
    utterances: tuple[Utterance, ...]

    @property
    def seconds(self) -> float:
        return sum(utterance.seconds for utterance in self.utterances)

    @property
    def text(self) -> str | None:
        """The joined transcripts; None when one is missing."""
        texts = [utterance.text for utterance in self.utterances]
        return None if None in texts else " ".join(text for text in texts if text)

    def load(self) -> np.ndarray:
        """(T,) float32 at 16 kHz; ramps of 5 ms keep the joints from clicking."""
        return np.concatenate([_ramped(utterance.load()) for utterance in self.utterances])


def _ramped(samples: np.ndarray) -> np.ndarray:
    samples = np.array(samples, dtype=np.float32)
    n = min(RAMP, len(samples) // 2)
    ramp = np.sin(np.linspace(0, np.pi / 2, n, endpoint=False, dtype=np.float32)) ** 2
    samples[:n] *= ramp
    samples[len(samples) - n :] *= ramp[::-1]
    return samples


def join_utterances(utterances: Iterable[Utterance], seconds: float = EXCERPT_SECONDS) -> list[Excerpt]:
    """Join each speaker's utterances, ordered by id, to excerpts of at least ``seconds``.

    Many utterances are single words, too short for PESQ and STOI. A rest under `SHORTEST_SECONDS` joins the excerpt
    before it; a speaker with less than that in all is left out. The order of the utterances given does not matter.
    """
    by_speaker: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_speaker[utterance.speaker, utterance.language].append(utterance)
    excerpts = []
    for (speaker, language), spoken in sorted(by_speaker.items()):
        groups: list[list[Utterance]] = []
        open_seconds = seconds
        for utterance in sorted(spoken, key=lambda one: one.id):
            if open_seconds >= seconds:
                groups.append([])
                open_seconds = 0.0
            groups[-1].append(utterance)
            open_seconds += utterance.seconds
        if open_seconds < SHORTEST_SECONDS:
            rest = groups.pop()
            if groups:
                groups[-1] += rest
        excerpts += [
            Excerpt(f"{speaker}/{language}/{number:04d}", speaker, language, tuple(group))
            for number, group in enumerate(groups)
        ]
    return excerpts


def sample_excerpts(excerpts: Sequence[Excerpt], limit: int, seed: int = 0) -> list[Excerpt]:
    """At most ``limit`` excerpts (0: all), each speaker by its share: systematic sampling in the order of ids."""
    if limit <= 0 or limit >= len(excerpts):
        return list(excerpts)
    ordered = sorted(excerpts, key=lambda one: one.id)
    start = random.Random(seed).random()
    return [ordered[int((start + turn) * len(ordered) / limit)] for turn in range(limit)]


def common_delay(references: Sequence[np.ndarray], degraded: Sequence[np.ndarray], most: float = 0.1) -> int:
    """Delay in samples common to all degraded recordings, to 1 ms (negative: early), at most ``most`` seconds.

    Envelopes of three bands up to 3.5 kHz are correlated, not samples: many codecs change the phase. A codec's delay
    is a constant, so the correlations of all recordings, (T,) at 16 kHz each, are added.
    """
    n_lags = round(most * 1000)
    total = np.zeros(2 * n_lags + 1)
    for reference, late in zip(references, degraded, strict=True):
        length = min(len(reference), len(late)) // DELAY_STEP
        if length < 2 * n_lags:
            continue
        a, b = _envelopes(reference, length), _envelopes(late, length)
        size = 2 * length
        correlation = np.fft.irfft(np.conj(np.fft.rfft(a, size)) * np.fft.rfft(b, size), size).sum(axis=0)
        norm = np.sqrt((a**2).sum() * (b**2).sum())
        if norm > 0:
            total += np.concatenate([correlation[-n_lags:], correlation[: n_lags + 1]]) / norm
    return (int(np.argmax(total)) - n_lags) * DELAY_STEP if np.any(total) else 0


def _envelopes(samples: np.ndarray, length: int) -> np.ndarray:
    """(T,) -> (3, length): square roots of the magnitudes in three bands every millisecond, without their means."""
    n_fft = 128  # 8 ms
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, (n_fft // 2, n_fft // 2)), n_fft)[::DELAY_STEP]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(n_fft).astype(np.float32), axis=1))  # bins of 125 Hz
    bands = np.sqrt(np.stack([spectrum[:, low:high].mean(axis=1) for low, high in ((1, 6), (6, 16), (16, 28))]))
    bands -= bands.mean(axis=1, keepdims=True)
    return np.pad(bands, ((0, 0), (0, max(0, length - bands.shape[1]))))[:, :length]


def remove_delay(samples: np.ndarray, delay: int, length: int) -> np.ndarray:
    """``samples`` moved ``delay`` samples earlier, cut or padded with zeros to ``length``."""
    start = samples[max(delay, 0) :]
    start = np.concatenate([np.zeros(max(-delay, 0), dtype=samples.dtype), start])[:length]
    return np.pad(start, (0, length - len(start)))
