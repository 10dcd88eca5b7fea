"""The plan of a synthetic corpus: which sentence is spoken with which prosody by which speakers. All from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

LANGUAGES = {"en": 0.62, "es": 0.14, "it": 0.12, "fr": 0.07, "pt": 0.05}
"""The share of each language's groups."""

ACCENTS = {"en": "ab", "es": "e", "it": "i", "fr": "f", "pt": "p"}
"""First letters of the names of voices that speak a language."""

WHISPERED = "af_nicole"
MIXTURES = 60
HELD_MIXTURES = 5
HELD_VOICES = ("af_kore", "bm_daniel", "jf_alpha")
SPEEDS = (0.88, 1.15)
OTHER_SEX = 0.35
"""The share of groups that one speaker of the other sex joins."""

_SPEAKER_SEED = 7  # the same in every run: held speakers must stay held


@dataclass(frozen=True)
class Speakers:
    """Voices, mixtures of two of them as further speakers, and those that nothing may train on."""

    voices: tuple[str, ...]
    mixtures: tuple[str, ...]
    held: frozenset[str]

    @classmethod
    def of(cls, names: Sequence[str], more: int = 0) -> Speakers:
        """The speakers made of the model's voices; no pair is mixed twice, none that trains has a held voice.

        ``more`` mixtures, of two voices in other shares, are added for training; the others stay the same.
        """
        generator = random.Random(_SPEAKER_SEED)
        voices = sorted(name for name in names if name != WHISPERED)
        drawn: list[str] = []
        while len(drawn) < MIXTURES:
            first, second = generator.sample(voices, 2)
            mixture = f"{first}*.5+{second}*.5"
            if is_male(first) == is_male(second) and mixture not in drawn:
                drawn.append(mixture)
        held = frozenset({*generator.sample(drawn, HELD_MIXTURES), *HELD_VOICES})
        distinct = {canonical(mixture): mixture for mixture in reversed(drawn)}
        mixtures = [
            mixture
            for mixture in drawn
            if distinct[canonical(mixture)] == mixture
            and (mixture in held or not any(voice in mixture for voice in HELD_VOICES))
        ]
        return cls(tuple(voices), (*mixtures, *_more_mixtures(voices, drawn, more)), held)


def _more_mixtures(voices: Sequence[str], drawn: Sequence[str], n: int) -> list[str]:
    """``n`` mixtures for training, or as many as there are pairs of one sex without a held voice, in random shares."""
    taken = {canonical(mixture.replace("*.5", "")) for mixture in drawn}
    pairs = [
        (first, second)
        for first, second in combinations(sorted(set(voices) - set(HELD_VOICES)), 2)
        if is_male(first) == is_male(second) and canonical(f"{first}+{second}") not in taken
    ]
    generator = random.Random(_SPEAKER_SEED + 1)
    generator.shuffle(pairs)
    shares = [generator.choice((3, 4, 5, 6, 7)) for _ in pairs]
    return [f"{a}*.{k}+{b}*.{10 - k}" for (a, b), k in list(zip(pairs, shares, strict=True))[:n]]


@dataclass(frozen=True)
class Group:
    """One sentence with one prosody by several speakers, the first of which is the prosody's own."""

    name: str
    language: str
    text: str
    prosody: str
    speakers: tuple[str, ...]
    speed: float


def canonical(speaker: str) -> str:
    """One name for a mixture in whichever order its parts are written."""
    return "+".join(sorted(speaker.split("+")))


def is_male(speaker: str) -> bool:
    """The sex of a speaker by its name: ``am_adam``, ``bf_emma``; mixtures are of one sex."""
    return speaker[1] == "m"


def plan(texts: Mapping[str, Sequence[str]], speakers: Speakers, seed: int) -> Iterator[Group]:
    """Groups in their order until the sentences of all languages are used up; none is used twice."""
    left = {}
    for language in LANGUAGES:
        left[language] = list(texts.get(language, ()))
        random.Random(f"{seed} {language}").shuffle(left[language])
    everybody = (*speakers.voices, *speakers.mixtures)
    index = 0
    while any(left.values()):
        generator = random.Random(f"{seed} {index}")
        languages = [language for language in LANGUAGES if left[language]]
        (language,) = generator.choices(languages, [LANGUAGES[name] for name in languages])
        prosody = generator.choice([name for name in speakers.voices if name[0] in ACCENTS[language]])
        same_sex = [name for name in everybody if name != prosody and is_male(name) == is_male(prosody)]
        chosen = [prosody, *generator.sample(same_sex, 2)]
        if generator.random() < OTHER_SEX:
            chosen.append(generator.choice([name for name in everybody if is_male(name) != is_male(prosody)]))
        yield Group(
            name=f"s{seed}-{index:06d}",
            language=language,
            text=left[language].pop(),
            prosody=prosody,
            speakers=tuple(chosen),
            speed=round(generator.uniform(*SPEEDS), 3),
        )
        index += 1
