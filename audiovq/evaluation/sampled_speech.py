"""Measures of sampled speech: its codes, pauses, voicing and F0, its words by Whisper, and continuations of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from audiovq.conversion.pitch import median_hz
from audiovq.data.corpora import open_corpora
from audiovq.errors import AudioVQError
from audiovq.evaluation.metrics import FRAME_SECONDS, track_f0
from audiovq.evaluation.pretrained import SpeakerCosine, Whisper, words
from audiovq.evaluation.protocol import SAMPLE_RATE
from audiovq.interfaces import STEPS_PER_OCTAVE, EncodedSpeech
from audiovq.io import cache_dir

if TYPE_CHECKING:
    from audiovq.prior.speech import SpeechPrior

SHORTEST_PAUSE = 0.1
"""Seconds; shorter quiet parts, as a stop's closure, belong to speech."""
QUIET_DB, SILENT_DB = 30.0, -65.0
"""A quiet frame is so far below a recording's loud frames (their 95th percentile), or below full scale."""
PAUSE_EDGES = np.concatenate([[0.1], np.geomspace(0.15, 3.0, 9), [np.inf]])
_EM_STEPS = 30


@dataclass(frozen=True)
class Sound:
    """Pauses (share of the time, number per second, length of each), voicing and F0 of a set of waveforms.

    ``voiced_share`` is of the frames outside pauses; ``f0`` has the median in Hz of each waveform with voiced frames.
    """

    pause_share: float
    pauses_per_second: float
    pause_seconds: list[float]
    voiced_share: float
    f0: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Means and medians, and the shares of pauses by length, between `PAUSE_EDGES`."""
        counts, _ = np.histogram(self.pause_seconds, PAUSE_EDGES)
        return {
            **{name: getattr(self, name) for name in ("pause_share", "pauses_per_second", "voiced_share")},
            "pause_seconds_mean": float(np.mean(self.pause_seconds)) if self.pause_seconds else None,
            "f0_median": float(np.median(self.f0)) if self.f0 else None,
            "pause_histogram": (counts / max(counts.sum(), 1)).tolist(),
        }

    def distances(self, other: Sound) -> dict[str, float | None]:
        """Distances to another set."""
        return {
            "pause_seconds": distance(self.pause_seconds, other.pause_seconds),
            "f0_hz": distance(self.f0, other.f0),
            "pause_share": abs(self.pause_share - other.pause_share),
            "voiced_share": abs(self.voiced_share - other.voiced_share),
        }


def describe_sound(waveforms: Sequence[np.ndarray]) -> Sound:
    """Measure waveforms (T,) at 16 kHz."""
    lengths: list[float] = []
    medians = []
    n_frames = n_quiet = n_voiced = n_active = 0
    for samples in waveforms:
        quiet, track = pauses(samples), track_f0(samples)
        lengths += [(stop - start) * FRAME_SECONDS for start, stop in runs_of(quiet)]
        n_frames, n_quiet = n_frames + len(quiet), n_quiet + int(quiet.sum())
        n_voiced, n_active = n_voiced + int((track[~quiet] > 0).sum()), n_active + int((~quiet).sum())
        if (track > 0).any():
            medians.append(float(np.median(track[track > 0])))
    return Sound(
        pause_share=n_quiet / max(n_frames, 1),
        pauses_per_second=len(lengths) / (FRAME_SECONDS * max(n_frames, 1)),
        pause_seconds=lengths,
        voiced_share=n_voiced / max(n_active, 1),
        f0=medians,
    )


def pauses(samples: np.ndarray) -> np.ndarray:
    """Frames of 10 ms that belong to a pause of 0.1 s or more: (T,) -> (ceil(T / 160),) bool."""
    size = round(FRAME_SECONDS * SAMPLE_RATE)
    frames = np.pad(samples.astype(np.float64), (0, -len(samples) % size)).reshape(-1, size)
    level = 10 * np.log10(np.square(frames).mean(1) + 1e-12)
    quiet = level < max(np.percentile(level, 95) - QUIET_DB, SILENT_DB)
    for start, stop in runs_of(quiet):
        if stop - start < round(SHORTEST_PAUSE / FRAME_SECONDS):
            quiet[start:stop] = False
    return quiet


def runs_of(mask: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    return [(start, stop) for start, stop in edges.reshape(-1, 2).tolist()]


def distance(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Earth mover's distance of two sets of numbers, in their unit; None where one is empty."""
    return float(wasserstein_distance(first, second)) if len(first) and len(second) else None


BLOCK_SECONDS = 0.3
"""Blocks that codes are shuffled in: about a syllable, so that sounds stay and words do not."""
FEWEST_WORDS = 3
"""Fewer words are no transcript."""
WORD_LISTS = (Path("/usr/share/dict/american-english"), Path("/usr/share/dict/words"))


def word_list(corpora: Sequence[Any] = ()) -> tuple[frozenset[str], str]:
    """English words, and their origin: ``<cache>/data/words/en.txt``, a system's list, or else transcripts of corpora.

    Raises:
        AudioVQError: when there are no words.
    """
    for path in (cache_dir() / "data" / "words" / "en.txt", *WORD_LISTS):
        if path.is_file():
            return frozenset(words(path.read_text(encoding="utf-8"), "en")), str(path)
    texts = [u.text for u in open_corpora(corpora, None) if u.language == "en" and u.text]
    found = frozenset(word for text in texts for word in words(text, "en"))
    if not found:
        raise AudioVQError(
            "no list of English words: install Debian's package wamerican, or run recipes/speech_generation/words.py"
        )
    return found, "English transcripts"


def shuffled(codes: np.ndarray, block: int, rng: np.random.Generator) -> np.ndarray:
    """Codes (..., F) with their blocks of ``block`` frames in another order; a shorter one at the end stays there."""
    n_blocks = codes.shape[-1] // block
    order = rng.permutation(n_blocks)
    if n_blocks > 1 and (order == np.arange(n_blocks)).all():
        order = np.roll(order, 1)
    places = np.concatenate([np.arange(block) + block * i for i in order] or [np.zeros(0, np.int64)])
    return np.concatenate([codes[..., places], codes[..., n_blocks * block :]], axis=-1)


@dataclass(frozen=True)
class Reading:
    """Whisper's words for one item, and nats per word for it and for its codes shuffled; None without words.

    ``real`` is the share of the words that are in the word list.
    """

    text: list[str]
    log_probability: float | None
    shuffled_log_probability: float | None
    real: float

    @property
    def speaks(self) -> bool:
        """Whether all words are real, there are enough, and they are likelier than those of the shuffled codes."""
        if self.log_probability is None or len(self.text) < FEWEST_WORDS or self.real < 1:
            return False
        return self.shuffled_log_probability is None or self.log_probability > self.shuffled_log_probability


def read_words(
    whisper: Whisper,
    decode: Callable[[EncodedSpeech], np.ndarray],
    encoded: EncodedSpeech,
    known: frozenset[str],
    seed: int,
) -> Reading:
    """Transcribe one item of English speech, whole and with its blocks in an order that ``seed`` decides."""
    block = round(BLOCK_SECONDS * 50)
    order = torch.from_numpy(shuffled(np.arange(encoded.codes.shape[2]), block, np.random.default_rng(seed)))
    other = replace(encoded, codes=encoded.codes[:, :, order], pitch=encoded.pitch[:, order])
    text, likely = whisper.read_scored(decode(encoded), "en")
    _, unlikely = whisper.read_scored(decode(other), "en")
    return Reading(text, likely, unlikely, float(np.mean([word in known for word in text])) if text else 0.0)


def summarize(readings: Sequence[Reading]) -> dict[str, Any]:
    """Figures of all items: share that speaks, words, log-probabilities."""

    def mean(values: Iterable[float | None]) -> float | None:
        present = [value for value in values if value is not None]
        return float(np.mean(present)) if present else None

    return {
        "n": len(readings),
        "with_words": mean(one.speaks for one in readings),
        "real_word_share": mean(one.real for one in readings if one.text),
        "words_per_item": mean(len(one.text) for one in readings),
        "log_probability_per_word": mean(one.log_probability for one in readings),
        "log_probability_per_word_shuffled": mean(one.shuffled_log_probability for one in readings),
        "transcripts": [" ".join(one.text) for one in readings],
    }


def semitones_between(first: np.ndarray, second: np.ndarray) -> float | None:
    """Distance of two pitch tracks' medians in semitones; None where one is unvoiced."""
    low, high = median_hz([first]), median_hz([second])
    return None if low is None or high is None else 12 * abs(float(np.log2(high / low)))


def pitch_range(track: np.ndarray) -> float | None:
    """Semitones between the 10th and 90th percentile of the voiced frames of pitch codes (F,)."""
    voiced = track[track > 0]
    if not len(voiced):
        return None
    return float(np.subtract(*np.percentile(voiced, [90, 10]))) * 12 / STEPS_PER_OCTAVE


def continue_prompts(
    source: SpeechPrior,
    prompts: Sequence[EncodedSpeech],
    decode: Callable[[EncodedSpeech], np.ndarray],
    seconds: float,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Speaker cosine and pitch of continuations of ``seconds`` against their prompts, which have one item each.

    ``settings`` are further arguments of `SpeechPrior.generate`.
    """
    speaker, cosines, rows = SpeakerCosine(), [], []
    for index, prompt in enumerate(prompts):
        encoded = source.generate(seconds, prompt=prompt, first=index, **settings)
        waveform, begin = decode(encoded), int(prompt.n_samples[0])
        vectors = [speaker.embed(part) for part in (waveform[:begin], waveform[begin:])]
        if vectors[0] is not None and vectors[1] is not None:
            cosines.append(float(vectors[0] @ vectors[1]))
        track, n_frames = encoded.pitch[0].numpy(), prompt.codes.shape[2]
        parts = track[:n_frames], track[n_frames:]
        rows.append((semitones_between(*parts), *(pitch_range(part) for part in parts)))
    known = [row for row in rows if None not in row]
    figures: dict[str, Any] = {"n": len(prompts), "speaker_cosine": float(np.mean(cosines)) if cosines else None}
    names = ("median_apart_semitones", "range_prompt_semitones", "range_continuation_semitones")
    if known:
        figures |= dict(zip(names, np.mean(np.array(known, float), axis=0).tolist(), strict=True))
    return figures


def divergence(first: np.ndarray, second: np.ndarray) -> float:
    """Jensen-Shannon divergence, in bits, of the empirical distributions of two arrays of integers: 0 to 1."""
    values, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    counts = (np.bincount(part, minlength=len(values)) for part in (place[: len(first)], place[len(first) :]))
    return float(jensenshannon(*counts, base=2) ** 2)


def divergences(first: Sequence[np.ndarray], second: Sequence[np.ndarray], radix: int) -> dict[str, list[float]]:
    """Divergences of single codes and of pairs of neighbours, by codebook; lists of codes (K, F) below ``radix``."""

    def bigrams(codes: np.ndarray) -> np.ndarray:
        return codes[:, :-1].astype(np.int64) * radix + codes[:, 1:]

    n = min(first[0].shape[0], second[0].shape[0])
    sides = [np.concatenate([c[:n] for c in codes], axis=1) for codes in (first, second)]
    pairs = [np.concatenate([bigrams(c[:n]) for c in codes], axis=1) for codes in (first, second)]
    named = {"unigram": sides, "bigram": pairs}
    return {name: [divergence(a[k], b[k]) for k in range(n)] for name, (a, b) in named.items()}


def longest_copies(
    samples: Sequence[np.ndarray], train: Sequence[np.ndarray], n_codebooks: int, radix: int
) -> list[int]:
    """Frames of the longest run of each sample that occurs in the training codes, equal in the first codebooks.

    Samples and training codes are (K, F) below ``radix``; a run is within one of them.
    """
    own, theirs = ([_symbols(codes[:n_codebooks], radix) for codes in part] for part in (samples, train))
    low, high = np.zeros(len(own), np.int64), np.array([len(x) for x in own])
    # Bisection of all samples at once, one length at a time: a length's table of the training codes is made once.
    known: dict[int, Counts | None] = {}
    while (low < high).any():
        middle = (low + high + 1) // 2
        for length in np.unique(middle[low < high]):
            if length not in known:
                rows = [_hashes(x, int(length)) for x in theirs if len(x) >= length]
                known[length] = Counts(np.concatenate(rows)) if rows else None
            table = known[length]
            for i in np.nonzero((middle == length) & (low < high))[0]:
                found = table is not None and table(_hashes(own[i], int(length))).any()
                low[i], high[i] = (length, high[i]) if found else (low[i], length - 1)
    return low.tolist()


def _symbols(codes: np.ndarray, radix: int) -> np.ndarray:
    """A number for each frame: (K, F) -> (F,) uint64, mixed so that sums of neighbours do not collide."""
    row = np.zeros(codes.shape[1], np.uint64)
    with np.errstate(over="ignore"):
        for codebook in codes:
            row = row * np.uint64(radix) + codebook.astype(np.uint64)
        row = (row + np.uint64(1)) * np.uint64(0xD6E8FEB86659FD93)
        return row ^ (row >> np.uint64(29))


def _hashes(symbols: np.ndarray, length: int) -> np.ndarray:
    """A number for each run of ``length`` symbols (F,) uint64: a polynomial modulo 2^64, by doubling."""
    base = np.uint64(0x9E3779B97F4A7C15)
    total = np.zeros(len(symbols) - length + 1, np.uint64)
    block, size, done, power = symbols.copy(), 1, 0, base
    # total = the sum, over the bits of length, of hashes of 2^i symbols, each shifted behind the ones before it.
    with np.errstate(over="ignore"):
        while size <= length:
            if length & size:
                total = total * power + block[done : done + len(total)]
                done += size
            block = block[:-size] * power + block[size:] if len(block) > size else block[:0]
            power = power * power
            size *= 2
    return total


class Counts:
    """Occurrences of integers."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys, self.counts = np.unique(keys, return_counts=True)

    def __call__(self, keys: np.ndarray) -> np.ndarray:
        """(N,) -> (N,) float64, 0 for keys without an occurrence."""
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.counts[place], 0).astype(np.float64)


class Trigram:
    """``l3 p(c | a, b) + l2 p(c | a) + l1 p(c)``, weights by expectation-maximisation on other codes (Jelinek 1980).

    The context (a, b) of the first codebook is its two frames before; of another one the next coarser codebook of the
    same frame, then its own frame before. Codes (K, F) of ``train`` are counted, weights fitted to ``held_out``.
    """

    def __init__(self, train: Sequence[np.ndarray], held_out: Sequence[np.ndarray], codebook_size: int) -> None:
        self.size, self.radix = codebook_size, codebook_size + 1
        self._tables, self.weights = [], []
        for k in range(train[0].shape[0]):
            near, far, codes = self._rows(train, k)
            keys = (codes, near, self._key(near, codes), self._key(near, far), self._key(near, codes, far))
            self._tables.append((len(codes), [Counts(key) for key in keys]))
            probabilities = self._probabilities(held_out, k)
            weights = np.full(3, 1 / 3)
            for _ in range(_EM_STEPS):
                part = weights[:, None] * probabilities
                weights = (part / part.sum(0)).mean(1)
            self.weights.append(weights)

    def _rows(self, sequences: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, ...]:
        """a, b and c of every code of codebook ``k``, (N,) each."""
        rows = []
        for codes in (sequence.astype(np.int64) for sequence in sequences):
            before = np.concatenate([[self.size], codes[k, :-1]])
            earlier = np.concatenate([[self.size], before[:-1]])
            rows.append((codes[k - 1], before, codes[k]) if k else (before, earlier, codes[0]))
        return tuple(np.concatenate(part) for part in zip(*rows, strict=True))

    def _key(self, *digits: np.ndarray) -> np.ndarray:
        key = digits[0]
        for digit in digits[1:]:
            key = key * self.radix + digit
        return key

    def _probabilities(self, sequences: Sequence[np.ndarray], k: int) -> np.ndarray:
        """Probabilities of each code by the three models, (3, N); 0 by a model that has not seen the context."""
        near, far, codes = self._rows(sequences, k)
        total, (one, context, pair, contexts, triple) = self._tables[k]
        unigram = (one(codes) + 1) / (total + self.size)
        bigram = pair(self._key(near, codes)) / np.maximum(context(near), 1)
        trigram = triple(self._key(near, codes, far)) / np.maximum(contexts(self._key(near, far)), 1)
        return np.stack([unigram, bigram, trigram])

    def nats(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Mean nats per code of each codebook, (K,)."""
        return np.array(
            [float(-np.log(w @ self._probabilities(sequences, k)).mean()) for k, w in enumerate(self.weights)]
        )
