"""Utterances joined to stretches that are long enough to judge.

Many utterances are single words of half a second, on which PESQ and STOI say little or nothing, and in which a file's
header or a codec's start weighs more than in use. So each speaker's utterances of a split, ordered by their ids, are
joined end to end until a stretch has 6 seconds; voices with less than 3 seconds in all are left out. Each utterance
keeps its own margins, and 5 ms ramps keep the joints from clicking. Every system codes the same stretches.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiovq.evaluation.pair import SAMPLE_RATE

if TYPE_CHECKING:
    from audiovq.data.utterance import Utterance

SECONDS = 6.0
"""A stretch is closed once it has this many."""
SHORTEST = 3.0
"""A voice's last stretch with fewer seconds goes to the one before it; where there is none, it is left out."""
RAMP = SAMPLE_RATE * 5 // 1000


@dataclass(frozen=True)
class Stretch:
    """Consecutive utterances of one speaker in one language."""

    id: str
    speaker: str
    language: str
    utterances: tuple[Utterance, ...]

    @property
    def seconds(self) -> float:
        return sum(utterance.seconds for utterance in self.utterances)

    @property
    def text(self) -> str | None:
        """The texts joined; None when one has none."""
        texts = [utterance.text for utterance in self.utterances]
        return None if None in texts else " ".join(text for text in texts if text)

    def load(self) -> np.ndarray:
        """(T,) float32 at 16 kHz."""
        return np.concatenate([_ramped(utterance.load()) for utterance in self.utterances])


def _ramped(samples: np.ndarray) -> np.ndarray:
    samples = np.array(samples, dtype=np.float32)
    n = min(RAMP, len(samples) // 2)
    ramp = np.sin(np.linspace(0, np.pi / 2, n, endpoint=False, dtype=np.float32)) ** 2
    samples[:n] *= ramp
    samples[len(samples) - n :] *= ramp[::-1]
    return samples


def join(utterances: Iterable[Utterance], seconds: float = SECONDS) -> list[Stretch]:
    """Stretches of at least ``seconds`` (a voice's last: of `SHORTEST`), the same whatever the order given."""
    voices: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        voices[utterance.speaker, utterance.language].append(utterance)
    stretches = []
    for (speaker, language), spoken in sorted(voices.items()):
        groups: list[list[Utterance]] = []
        open_seconds = seconds
        for utterance in sorted(spoken, key=lambda one: one.id):
            if open_seconds >= seconds:
                groups.append([])
                open_seconds = 0.0
            groups[-1].append(utterance)
            open_seconds += utterance.seconds
        if open_seconds < SHORTEST:
            rest = groups.pop()
            if groups:
                groups[-1] += rest
        stretches += [
            Stretch(f"{speaker}/{language}/{number:04d}", speaker, language, tuple(group))
            for number, group in enumerate(groups)
        ]
    return stretches


def choose(stretches: Sequence[Stretch], limit: int, seed: int = 0) -> list[Stretch]:
    """At most ``limit`` stretches (0: all), every voice with its share, so that their mean estimates that of all.

    Every n-th of them in the order of voices and ids, from a start drawn with ``seed`` (systematic sampling).
    """
    if limit <= 0 or limit >= len(stretches):
        return list(stretches)
    ordered = sorted(stretches, key=lambda one: one.id)
    start = random.Random(seed).random()
    return [ordered[int((start + turn) * len(ordered) / limit)] for turn in range(limit)]
