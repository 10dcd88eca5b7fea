"""Who is converted to whom: a set of pairs that never changes, so that results can be compared.

``pairs.json`` names utterances of the corpus debian_speech by their ids. Sources are test recordings. A seen target
gives a reference of training recordings and is judged by its validation recordings; an unseen target's recordings are
dealt out, so that the ones it is converted by, judged by and compared with are different ones.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiovq.errors import AudioVQError
from audiovq.evaluation.stretches import Stretch, choose, join

if TYPE_CHECKING:
    from audiovq.data.utterance import Utterance

PAIRS_FILE = Path(__file__).with_name("pairs.json")
KINDS = ("seen", "unseen")
MAIN_MINUTES = 5.0
"""Voices with more training speech than this are the main ones."""
REFERENCE_SECONDS, JUDGE_SECONDS = 20.0, 60.0
GOLDEN = (5**0.5 - 1) / 2
"""Steps of this part of a list visit all of it evenly."""
SEEN_TARGETS = 4
"""Targets of each seen source among the other main voices."""


@dataclass(frozen=True)
class Voice:
    """A target.

    Attributes:
        speaker: ``corpus/name``.
        kind: "seen" in training, or "unseen".
        reference: what a converter is given of it.
        judge: what tells how it sounds; never given to a converter.
        real: more of its speech, for the ceiling.
    """

    speaker: str
    kind: str
    reference: Stretch
    judge: tuple[Stretch, ...]
    real: tuple[Stretch, ...]


@dataclass(frozen=True)
class ConversionPair:
    """A source stretch and the voice it is to get."""

    id: str
    source: Stretch
    target: Voice

    @property
    def kind(self) -> str:
        return self.target.kind


@dataclass(frozen=True)
class PairSet:
    """The pairs, and all voices among which a target is to be found, by their speakers' names."""

    pairs: tuple[ConversionPair, ...]
    voices: Mapping[str, Voice]

    def limited(self, limit: int) -> PairSet:
        """At most ``limit`` pairs (0: all), drawn evenly from both kinds."""
        if limit <= 0 or limit >= len(self.pairs):
            return self
        taken = [self.pairs[int((turn + 0.5) * len(self.pairs) / limit)] for turn in range(limit)]
        return PairSet(tuple(taken), self.voices)


def read_pairs(utterances: Iterable[Utterance], path: str | Path = PAIRS_FILE) -> PairSet:
    """The committed pairs with the recordings of a prepared corpus.

    Args:
        utterances: all splits of it.
        path: another file of pairs.

    Raises:
        AudioVQError: when the corpus lacks a recording that the pairs name.
    """
    plan = json.loads(Path(path).read_text(encoding="utf-8"))
    by_id = {utterance.id: utterance for utterance in utterances}

    def stretch(id: str, ids: Sequence[str]) -> Stretch:
        missing = [name for name in ids if name not in by_id]
        if missing:
            raise AudioVQError(f"the corpus has no recording {missing[0]!r}, which the pairs need: prepare it again")
        taken = tuple(by_id[name] for name in ids)
        return Stretch(id, taken[0].speaker, taken[0].language, taken)

    voices = {
        speaker: Voice(
            speaker,
            voice["kind"],
            stretch(f"{speaker}/reference", voice["reference"]),
            tuple(stretch(f"{speaker}/judge/{i}", ids) for i, ids in enumerate(voice["judge"])),
            tuple(stretch(f"{speaker}/real/{i}", ids) for i, ids in enumerate(voice["real"])),
        )
        for speaker, voice in plan["voices"].items()
    }
    sources = {id: stretch(id, ids) for id, ids in plan["sources"].items()}
    pairs = [
        ConversionPair(f"{id} to {short_name(speaker)}", sources[id], voices[speaker]) for id, speaker in plan["pairs"]
    ]
    return PairSet(tuple(pairs), voices)


def short_name(speaker: str) -> str:
    """A speaker's name without its corpus."""
    return speaker.rpartition("/")[2]


def build_pairs(utterances: Iterable[Utterance]) -> dict[str, Any]:
    """Choose pairs from a corpus, the same ones each time; what ``pairs.json`` holds.

    Every main voice is source to `SEEN_TARGETS` other main voices, and target of as many, and source to every unseen
    voice. A voice's stretches of some 6 s are used in turn.
    """
    by_voice: dict[str, dict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
    for utterance in sorted(utterances, key=lambda one: one.id):
        by_voice[utterance.speaker][utterance.split].append(utterance)

    def minutes(speaker: str, split: str) -> float:
        return sum(utterance.seconds for utterance in by_voice[speaker][split]) / 60

    seen = [s for s in sorted(by_voice) if minutes(s, "train") > MAIN_MINUTES]
    unseen = [s for s in sorted(by_voice) if minutes(s, "unseen") > MAIN_MINUTES / 2]
    n_stretches = SEEN_TARGETS + len(unseen)
    voices, sources, pairs = {}, {}, []
    for speaker in seen:
        splits = by_voice[speaker]
        spoken = choose(join(_with_text(splits["test"])), n_stretches)
        for stretch in spoken:
            sources[short_name(stretch.id.rpartition("/")[0].rpartition("/")[0]) + _tail(stretch.id)] = _ids(stretch)
        voices[speaker] = {
            "kind": "seen",
            "reference": [u.id for u in spread(splits["train"], REFERENCE_SECONDS)],
            "judge": [_ids(s) for s in join(spread(splits["validation"], JUDGE_SECONDS))],
            "real": [_ids(s) for s in spoken],
        }
    for speaker in unseen:
        dealt = [by_voice[speaker]["unseen"][i::3] for i in range(3)]
        voices[speaker] = {
            "kind": "unseen",
            "reference": [u.id for u in spread(dealt[0], REFERENCE_SECONDS)],
            "judge": [_ids(s) for s in join(spread(dealt[1], JUDGE_SECONDS))],
            "real": [_ids(s) for s in choose(join(dealt[2]), n_stretches)],
        }
    for number, speaker in enumerate(seen):
        own = [id for id in sources if id.startswith(short_name(speaker) + "/")]
        steps = [1 + turn * (len(seen) - 1) // SEEN_TARGETS for turn in range(SEEN_TARGETS)]
        targets = [seen[(number + step) % len(seen)] for step in steps] + unseen
        pairs += [[own[(turn + number) % len(own)], target] for turn, target in enumerate(targets)]
    pairs.sort(key=lambda pair: KINDS.index(voices[pair[1]]["kind"]))
    return {"voices": voices, "sources": sources, "pairs": pairs}


def _tail(id: str) -> str:
    """Language and number of a stretch's id."""
    return "/" + "/".join(id.split("/")[-2:])


def _ids(stretch: Stretch) -> list[str]:
    return [utterance.id for utterance in stretch.utterances]


def _with_text(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Those with a transcript, where a voice has any: word errors need it."""
    return [u for u in utterances if u.text is not None] or list(utterances)


def spread(utterances: Sequence[Utterance], seconds: float) -> list[Utterance]:
    """At least so many seconds (or all there is), from all over a voice's recordings."""
    taken: dict[int, float] = {}
    turn = 0
    while sum(taken.values()) < seconds and len(taken) < len(utterances):
        place = int(turn * GOLDEN % 1 * len(utterances))
        taken[place] = utterances[place].seconds
        turn += 1
    return [utterances[place] for place in sorted(taken)]
