"""The plan of synthetic speech: held speakers never change, no sentence is spoken twice."""

from __future__ import annotations

from itertools import islice

import pytest

from recipes.kokoro_speech.plan import (
    HELD_MIXTURES,
    HELD_VOICES,
    LANGUAGES,
    MIXTURES,
    Speakers,
    canonical,
    is_male,
    plan,
)
from tests.recipes.kokoro import VOICES

SPEAKERS = Speakers.of(VOICES)
TEXTS = {language: [f"{language} {number}" for number in range(40)] for language in LANGUAGES}


def test_held_speakers_are_those_of_every_run_so_far():
    assert SPEAKERS.held == {
        "af_kore",
        "bm_daniel",
        "jf_alpha",
        "bf_lily*.5+jf_gongitsune*.5",
        "zm_yunxia*.5+em_santa*.5",
        "hf_alpha*.5+jf_alpha*.5",
        "am_fenrir*.5+em_alex*.5",
        "ef_dora*.5+af_heart*.5",
    }
    assert Speakers.of(VOICES[::-1]) == SPEAKERS
    assert len(SPEAKERS.held) == HELD_MIXTURES + len(HELD_VOICES)


def test_mixtures_are_distinct_of_one_sex_and_without_held_voices():
    assert len({canonical(mixture) for mixture in SPEAKERS.mixtures}) == len(SPEAKERS.mixtures) > 0.8 * MIXTURES
    for mixture in SPEAKERS.mixtures:
        first, second = (part.removesuffix("*.5") for part in mixture.split("+"))
        assert is_male(first) == is_male(second) == is_male(mixture)
        assert mixture in SPEAKERS.held or not {first, second} & set(HELD_VOICES)
    assert not any("af_nicole" in name for name in (*SPEAKERS.voices, *SPEAKERS.mixtures))


def test_no_sentence_is_spoken_twice_and_all_are_spoken():
    groups = list(plan(TEXTS, SPEAKERS, seed=1))
    assert sorted(group.text for group in groups) == sorted(text for texts in TEXTS.values() for text in texts)
    assert len({group.name for group in groups}) == len(groups)
    english = sum(group.language == "en" for group in groups[:50])
    assert 20 < english < 42  # 62 % of them until the sentences are used up


@pytest.mark.parametrize("seed", [1, 2])
def test_groups_have_one_prosody_and_its_speaker_first(seed):
    for group in plan(TEXTS, SPEAKERS, seed):
        assert group.speakers[0] == group.prosody
        assert len(set(group.speakers)) == len(group.speakers)
        assert len(group.speakers) in (3, 4)
        assert [is_male(name) == is_male(group.prosody) for name in group.speakers] == [True, True, True, False][
            : len(group.speakers)
        ]
        assert group.text.startswith(group.language)
        assert group.name.startswith(f"s{seed}-")


def test_a_plan_depends_on_its_seed_alone():
    first = list(islice(plan(TEXTS, SPEAKERS, seed=1), 20))
    assert first == list(islice(plan(TEXTS, SPEAKERS, seed=1), 20))
    other = list(islice(plan(TEXTS, SPEAKERS, seed=2), 20))
    assert not {group.name for group in first} & {group.name for group in other}
    assert [group.text for group in first] != [group.text for group in other]


def test_more_mixtures_leave_the_others_and_the_held_speakers_as_they_are():
    more = Speakers.of(VOICES, 150)
    assert (more.voices, more.held) == (SPEAKERS.voices, SPEAKERS.held)
    assert more.mixtures[: len(SPEAKERS.mixtures)] == SPEAKERS.mixtures
    added = more.mixtures[len(SPEAKERS.mixtures) :]
    assert len(added) == len(set(added)) == 150
    drawn = {frozenset(parts(mixture)) for mixture in SPEAKERS.mixtures}
    for mixture in added:
        first, second = parts(mixture)
        assert is_male(first) == is_male(second)
        assert not {first, second} & set(HELD_VOICES)
        assert frozenset((first, second)) not in drawn
        assert sum(float(part.split("*")[1]) for part in mixture.split("+")) == pytest.approx(1)


def parts(mixture: str) -> list[str]:
    return [part.split("*")[0] for part in mixture.split("+")]
