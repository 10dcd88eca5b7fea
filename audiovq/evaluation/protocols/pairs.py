"""Sources and targets of voice conversion: a fixed set of pairs, and pairs whose true result is recorded."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.evaluation.protocol import Excerpt, Pair, remove_delay

if TYPE_CHECKING:
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
    """A target speaker.

    Attributes:
        speaker: ``corpus/name``.
        kind: "seen" in training, or "unseen".
        reference: the recording that a converter may use.
        judge: recordings whose centroid represents the speaker; never given to a converter.
        real: more recordings, for the upper bound.
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
    unseen target's reference, judge and upper bound are different recordings.

    Args:
        utterances: all splits of the corpus.
        path: another file of pairs.

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

    speakers = {
        speaker: Target(
            speaker,
            found["kind"],
            excerpt(f"{speaker}/reference", found["reference"]),
            tuple(excerpt(f"{speaker}/judge/{i}", ids) for i, ids in enumerate(found["judge"])),
            tuple(excerpt(f"{speaker}/real/{i}", ids) for i, ids in enumerate(found["real"])),
        )
        for speaker, found in plan["speakers"].items()
    }
    sources = {id: excerpt(id, ids) for id, ids in plan["sources"].items()}
    pairs = [
        ConversionPair(f"{id} to {short_name(speaker)}", sources[id], speakers[speaker])
        for id, speaker in plan["pairs"]
    ]
    return PairSet(tuple(pairs), speakers)


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
