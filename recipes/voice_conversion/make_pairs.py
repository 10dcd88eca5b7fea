"""Choose the evaluation's pairs from the prepared corpus. Only for a new set: results of different sets do not compare.

    python recipes/voice_conversion/make_pairs.py FILE

To be used, the file has to replace the package's.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from audiovq.data.corpora import open_corpus
from audiovq.data.utterance import Utterance
from audiovq.evaluation.pairs import KINDS, MAIN_MINUTES, REFERENCE_SECONDS, short_name, spread
from audiovq.evaluation.protocol import Excerpt, join_utterances, sample_excerpts
from audiovq.io import atomic_write

JUDGE_SECONDS = 60.0
SEEN_TARGETS = 4
"""Targets of each seen source among the other main speakers."""


def build_pairs(utterances: Iterable[Utterance]) -> dict[str, Any]:
    """Choose pairs from a corpus, the same ones each time; the content of ``pairs.json``.

    Sources are test recordings. A seen target gives a reference of training recordings and is judged by its validation
    recordings; an unseen target's recordings are dealt out to reference, judge and upper bound. Every main speaker is
    source to `SEEN_TARGETS` other main speakers, and target of as many, and source to every unseen speaker.
    """
    by_speaker: dict[str, dict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
    for utterance in sorted(utterances, key=lambda one: one.id):
        by_speaker[utterance.speaker][utterance.split].append(utterance)

    def minutes(speaker: str, split: str) -> float:
        return sum(utterance.seconds for utterance in by_speaker[speaker][split]) / 60

    seen = [s for s in sorted(by_speaker) if minutes(s, "train") > MAIN_MINUTES]
    unseen = [s for s in sorted(by_speaker) if minutes(s, "unseen") > MAIN_MINUTES / 2]
    n_excerpts = SEEN_TARGETS + len(unseen)
    speakers, sources, pairs = {}, {}, []
    for speaker in seen:
        splits = by_speaker[speaker]
        spoken = sample_excerpts(join_utterances(_with_text(splits["test"])), n_excerpts)
        for excerpt in spoken:
            sources[_short_id(excerpt.id)] = _ids(excerpt)
        speakers[speaker] = {
            "kind": "seen",
            "reference": [u.id for u in spread(splits["train"], REFERENCE_SECONDS)],
            "judge": [_ids(s) for s in join_utterances(spread(splits["validation"], JUDGE_SECONDS))],
            "real": [_ids(s) for s in spoken],
        }
    for speaker in unseen:
        dealt = [by_speaker[speaker]["unseen"][i::3] for i in range(3)]
        speakers[speaker] = {
            "kind": "unseen",
            "reference": [u.id for u in spread(dealt[0], REFERENCE_SECONDS)],
            "judge": [_ids(s) for s in join_utterances(spread(dealt[1], JUDGE_SECONDS))],
            "real": [_ids(s) for s in sample_excerpts(join_utterances(dealt[2]), n_excerpts)],
        }
    for number, speaker in enumerate(seen):
        own = [id for id in sources if id.startswith(short_name(speaker) + "/")]
        steps = [1 + turn * (len(seen) - 1) // SEEN_TARGETS for turn in range(SEEN_TARGETS)]
        targets = [seen[(number + step) % len(seen)] for step in steps] + unseen
        pairs += [[own[(turn + number) % len(own)], target] for turn, target in enumerate(targets)]
    pairs.sort(key=lambda pair: KINDS.index(speakers[pair[1]]["kind"]))
    return {"speakers": speakers, "sources": sources, "pairs": pairs}


def _short_id(id: str) -> str:
    """``corpus/speaker/language/number`` without the corpus."""
    speaker, language, number = id.rsplit("/", 2)
    return f"{short_name(speaker)}/{language}/{number}"


def _ids(excerpt: Excerpt) -> list[str]:
    return [utterance.id for utterance in excerpt.utterances]


def _with_text(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Those with a transcript, where a speaker has any: word errors need it."""
    return [u for u in utterances if u.text is not None] or list(utterances)


def main() -> None:
    """Write the file and print its contents in numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="gets the pairs")
    target = parser.parse_args().file
    plan = build_pairs(open_corpus("debian_speech", None))
    with atomic_write(target) as path:
        path.write_text(json.dumps(plan, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    n = {name: len(found) for name, found in plan.items()}
    print(f"{target}: {n['pairs']} pairs of {n['sources']} sources, {n['speakers']} speakers")


if __name__ == "__main__":
    main()
