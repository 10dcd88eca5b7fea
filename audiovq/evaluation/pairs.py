"""Voice conversion: a fixed set of pairs, pairs whose true result is recorded, and the converters to compare."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from audiovq.errors import AudioVQError, need, with_pkg_resources
from audiovq.evaluation.metrics import CEILING, FLOOR
from audiovq.evaluation.protocol import SAMPLE_RATE, Excerpt, Pair, remove_delay

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec
    from audiovq.conversion.pitch import Pitch
    from audiovq.conversion.target import TargetVoice
    from audiovq.data.utterance import Utterance

PAIRS_FILE = Path(__file__).with_name("pairs.json")
"""Utterances of the corpus debian_speech by their ids; recipes/voice_conversion/make_pairs.py chose them."""
KINDS = ("seen", "unseen")
MAIN_MINUTES = 5.0
"""Speakers with more training speech than this are the main ones."""
REFERENCE_SECONDS = 20.0
GOLDEN = (5**0.5 - 1) / 2
"""Steps of this part of a list visit all of it evenly."""


@dataclass(frozen=True)
class Target:
    """A target speaker, ``corpus/name``, "seen" in training or "unseen".

    A converter may use the reference. The centroid of the recordings that judge represents the speaker; no converter
    gets them. Those of ``real`` are for the upper bound.
    """

    speaker: str
    kind: str
    reference: Excerpt
    judge: tuple[Excerpt, ...] = ()
    real: tuple[Excerpt, ...] = ()


@dataclass(frozen=True)
class ConversionPair:
    """A source, its target speaker, and the recording that conversion should give, where there is one."""

    id: str
    source: Excerpt
    target: Target
    truth: Excerpt | None = None

    @property
    def kind(self) -> str:
        return self.target.kind


@dataclass(frozen=True)
class PairSet:
    """Pairs, and all speakers among which a target is to be identified, by name."""

    pairs: tuple[ConversionPair, ...]
    speakers: Mapping[str, Target]

    def limited(self, limit: int) -> PairSet:
        """At most ``limit`` pairs (0: all), drawn evenly."""
        if limit <= 0 or limit >= len(self.pairs):
            return self
        taken = [self.pairs[int((turn + 0.5) * len(self.pairs) / limit)] for turn in range(limit)]
        return PairSet(tuple(taken), self.speakers)


def read_pairs(utterances: Iterable[Utterance], path: str | Path = PAIRS_FILE) -> PairSet:
    """The fixed pairs with the recordings of a prepared corpus.

    Sources are test recordings. A seen target's reference is training speech and it is judged by validation speech; an
    unseen target's reference, judge and upper bound are different recordings. ``utterances`` are of all splits.

    Raises:
        AudioVQError: when the corpus lacks a recording of the pairs.
    """
    plan = json.loads(Path(path).read_text(encoding="utf-8"))
    by_id = {utterance.id: utterance for utterance in utterances}

    def excerpt(id: str, ids: Sequence[str]) -> Excerpt:
        missing = [name for name in ids if name not in by_id]
        if missing:
            raise AudioVQError(f"the corpus has no recording {missing[0]!r}, which the pairs need: prepare it again")
        return as_excerpt(id, [by_id[name] for name in ids])

    speakers = {}
    for name, found in plan["speakers"].items():
        judge, real = (
            tuple(excerpt(f"{name}/{part}/{i}", ids) for i, ids in enumerate(found[part])) for part in ("judge", "real")
        )
        reference = excerpt(f"{name}/reference", found["reference"])
        speakers[name] = Target(name, found["kind"], reference, judge, real)
    sources = {id: excerpt(id, ids) for id, ids in plan["sources"].items()}
    named = [(f"{id} to {short_name(speaker)}", sources[id], speakers[speaker]) for id, speaker in plan["pairs"]]
    return PairSet(tuple(ConversionPair(*one) for one in named), speakers)


def group_pairs(utterances: Iterable[Utterance]) -> PairSet:
    """Pairs of recordings of one group: the same sentence by several speakers, aligned to the sample.

    Each recording outside the training split is the source of one pair; the next one of its group, by another speaker,
    is the true result. The target's reference is up to 20 s of the speaker's recordings in other groups, of training
    where there are such.

    Raises:
        AudioVQError: when there is no such pair.
    """
    groups: dict[str, list[Utterance]] = defaultdict(list)
    by_speaker: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in sorted(utterances, key=lambda one: one.id):
        by_speaker[utterance.speaker].append(utterance)
        if utterance.group is not None and utterance.split in ("test", "unseen"):
            groups[utterance.group].append(utterance)
    pairs = []
    for group, items in groups.items():
        for source, truth in zip(items, items[1:] + items[:1], strict=True):
            others = [u for u in by_speaker[truth.speaker] if u.group != group]
            reference = spread([u for u in others if u.split == "train"] or others, REFERENCE_SECONDS)
            if source.speaker == truth.speaker or not reference:
                continue
            kind = "unseen" if truth.split == "unseen" else "seen"
            target = Target(truth.speaker, kind, as_excerpt(f"{truth.speaker}/reference", reference))
            sides = (as_excerpt(one.id, [one]) for one in (source, truth))
            pairs.append(ConversionPair(f"{source.id} to {truth.id}", next(sides), target, next(sides)))
    if not pairs:
        raise AudioVQError("no group of this corpus has recordings of two speakers outside the training split")
    pairs.sort(key=lambda pair: KINDS.index(pair.kind))
    return PairSet(tuple(pairs), {pair.target.speaker: pair.target for pair in pairs})


def truth(pair: ConversionPair, converted: np.ndarray | None = None) -> Pair:
    """The true result of a pair as the reference of what was converted (None: of itself)."""
    assert pair.truth is not None
    samples = pair.truth.load()
    other = samples if converted is None else remove_delay(converted, 0, len(samples))
    return Pair(pair.id, samples, other, pair.target.speaker, pair.truth.language, pair.truth.text)


def as_excerpt(id: str, utterances: Sequence[Utterance]) -> Excerpt:
    """Utterances of one speaker, end to end."""
    return Excerpt(id, utterances[0].speaker, utterances[0].language, tuple(utterances))


def short_name(speaker: str) -> str:
    """A speaker's name without its corpus."""
    return speaker.rpartition("/")[2]


def spread(utterances: Sequence[Utterance], seconds: float) -> list[Utterance]:
    """At least so many seconds (or all there is), evenly from a speaker's recordings."""
    taken: dict[int, float] = {}
    turn = 0
    while sum(taken.values()) < seconds and len(taken) < len(utterances):
        place = int(turn * GOLDEN % 1 * len(utterances))
        taken[place] = utterances[place].seconds
        turn += 1
    return [utterances[place] for place in sorted(taken)]


class Converter(Protocol):
    """A voice converter, or a row that bounds what one can reach.

    ``name`` is unique in a report, ``family`` "reference", "baseline" or "converter", ``call`` how it works, for the
    report; one that ``keeps_words`` gives the words and the length of the source.
    """

    name: str
    family: str
    call: str
    keeps_words: bool

    def convert(self, pair: ConversionPair) -> np.ndarray:
        """(T,) float32 at 16 kHz."""
        ...


class RealSpeech:
    """The upper bound: other recordings of the target itself."""

    name, family, keeps_words = "target, real speech", "reference", False
    call = "recordings of the target that no converter and no centroid has seen"

    def convert(self, pair: ConversionPair) -> np.ndarray:
        # Chosen by the pair's name, so that it stays the same in a smaller set.
        return pair.target.real[sum(pair.id.encode()) % len(pair.target.real)].load()


class Unconverted:
    """The lower bound: the source as it is."""

    name, family, keeps_words = "source, unconverted", "reference", True
    call = "the source as it was recorded"

    def convert(self, pair: ConversionPair) -> np.ndarray:
        return pair.source.load()


class Reconstruction:
    """A recording coded and decoded with its own speaker vector: the model's loss before conversion.

    ``of`` is "source", or "truth": the true result of a pair.
    """

    family, keeps_words = "reference", True

    def __init__(self, codec: SpeechCodec, n_codebooks: int | None, decoder: str, of: str = "source") -> None:
        self._codec, self._n_codebooks, self._decoder = codec, codec.check_n_codebooks(n_codebooks), decoder
        self._of = of
        self.name = f"{'true result' if of == 'truth' else of}, coded ({self._n_codebooks})"
        self.call = f"model {codec.name}, {self._n_codebooks} codebooks, {decoder} decoder, its own speaker vector"

    def convert(self, pair: ConversionPair) -> np.ndarray:
        recording = pair.truth if self._of == "truth" and pair.truth is not None else pair.source
        encoded = self._codec.encode([torch.from_numpy(recording.load())], n_codebooks=self._n_codebooks)
        return self._codec.decode(encoded, decoder=self._decoder)[0, 0].numpy()


class ModelConverter:
    """A `SpeechCodec` with the speaker vector of the target's reference."""

    family, keeps_words = "converter", True

    def __init__(self, codec: SpeechCodec, n_codebooks: int | None, pitch: Pitch, decoder: str) -> None:
        n_codebooks = codec.check_n_codebooks(n_codebooks or codec.conversion_codebooks)
        self._codec = codec
        self._options = {"n_codebooks": n_codebooks, "pitch": pitch, "decoder": decoder}
        self.name = f"converted ({n_codebooks}, pitch {pitch})"
        self.call = f"model {codec.name}, {n_codebooks} codebooks, {decoder} decoder, pitch {pitch}"
        self._targets: dict[str, TargetVoice] = {}

    def convert(self, pair: ConversionPair) -> np.ndarray:
        speaker = pair.target.speaker
        if speaker not in self._targets:
            self._targets[speaker] = self._codec.target_voice(pair.target.reference.load())
        source = torch.from_numpy(pair.source.load())
        return self._codec.convert([source], self._targets[speaker], **self._options)[0, 0].numpy()  # type: ignore[arg-type]


class WorldConverter:
    """Log F0 gets the target's mean and deviation; the log envelope moves by the difference of the speakers' means.

    Raises:
        AudioVQError: when the package pyworld is not installed.
    """

    name, family, keeps_words = "WORLD statistics", "baseline", True
    call = "pyworld: log F0 to the target's mean and deviation, the envelope moved by the difference of the means"

    def __init__(self) -> None:
        with with_pkg_resources():
            self._world = need("pyworld", "the WORLD baseline", "world")  # not in `eval`: it is compiled on installing
        self._known: dict[str, tuple[float, float, np.ndarray]] = {}

    def _analyse(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """F0 in Hz, envelope and times of each frame."""
        x = samples.astype(np.float64)
        pitch, times = self._world.dio(x, SAMPLE_RATE, f0_floor=FLOOR, f0_ceil=CEILING)
        pitch = self._world.stonemask(x, pitch, times, SAMPLE_RATE)
        return pitch, self._world.cheaptrick(x, pitch, times, SAMPLE_RATE), times

    def _statistics(self, pitch: np.ndarray, envelope: np.ndarray) -> tuple[float, float, np.ndarray]:
        """Mean and deviation of log F0, and the mean log envelope, over the voiced frames."""
        voiced = pitch > 0
        logs = np.log(pitch[voiced]) if voiced.any() else np.log([150.0])
        mean_envelope = np.log(envelope[voiced] if voiced.any() else envelope).mean(axis=0)
        return float(logs.mean()), float(max(logs.std(), 1e-3)), mean_envelope

    def convert(self, pair: ConversionPair) -> np.ndarray:
        """(T,) float32, as long as the source."""
        speaker = pair.target.speaker
        if speaker not in self._known:
            self._known[speaker] = self._statistics(*self._analyse(pair.target.reference.load())[:2])
        source = pair.source.load()
        pitch, envelope, times = self._analyse(source)
        noise = self._world.d4c(source.astype(np.float64), pitch, times, SAMPLE_RATE)
        (mean, deviation, mean_envelope), target = self._statistics(pitch, envelope), self._known[speaker]
        voiced = pitch > 0
        moved = np.zeros_like(pitch)
        moved[voiced] = np.exp((np.log(pitch[voiced]) - mean) / deviation * target[1] + target[0])
        other = np.exp(np.log(envelope) + (target[2] - mean_envelope)[None])
        out = self._world.synthesize(np.clip(moved, 0, 2 * CEILING), other, noise, SAMPLE_RATE)
        # The level of the target's recordings is no property of the speaker.
        out *= np.sqrt(np.mean(source.astype(np.float64) ** 2) / max(np.mean(out**2), 1e-12))
        return np.pad(out, (0, max(0, len(source) - len(out))))[: len(source)].astype(np.float32)
