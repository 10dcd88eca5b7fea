from __future__ import annotations

import numpy as np
import pytest

from audiovq.evaluation.stretches import RAMP, SECONDS, SHORTEST, choose, join
from tests.evaluation.conftest import fake_utterances


def test_every_utterance_is_in_one_stretch_of_its_own_voice():
    utterances = fake_utterances("a", [1.0, 2.5, 4.0, 0.5, 7.0, 3.0]) + fake_utterances("b", [2.0] * 9)
    stretches = join(utterances)
    inside = [utterance.id for stretch in stretches for utterance in stretch.utterances]
    assert sorted(inside) == sorted(utterance.id for utterance in utterances)
    for stretch in stretches:
        assert {utterance.speaker for utterance in stretch.utterances} == {stretch.speaker}
        assert stretch.seconds >= SHORTEST


def test_only_the_last_stretch_of_a_voice_may_be_short():
    stretches = join(fake_utterances("a", [2.0] * 11))
    assert [stretch.seconds for stretch in stretches] == pytest.approx([6, 6, 6, 4])
    assert all(stretch.seconds >= SECONDS for stretch in stretches[:-1])


def test_a_rest_too_short_joins_the_stretch_before_and_alone_is_left_out():
    assert [stretch.seconds for stretch in join(fake_utterances("a", [4.0, 4.0, 1.0]))] == pytest.approx([9])
    assert join(fake_utterances("a", [1.0, 1.5])) == []


def test_one_voice_in_two_languages_is_not_mixed():
    stretches = join(fake_utterances("a", [4.0], "en") + fake_utterances("a", [4.0], "es"))
    assert sorted(stretch.language for stretch in stretches) == ["en", "es"]
    assert len({stretch.id for stretch in stretches}) == 2


def test_order_of_the_corpus_does_not_matter():
    utterances = fake_utterances("a", [1.0, 2.0, 3.0, 4.0]) + fake_utterances("b", [5.0, 2.0])
    assert join(utterances) == join(utterances[::-1])


def test_a_stretch_is_its_utterances_end_to_end_with_ramps():
    utterances = fake_utterances("a", [2.0, 2.5, 3.0])
    (stretch,) = join(utterances)
    samples = stretch.load()
    plain = np.concatenate([utterance.samples for utterance in utterances])
    assert len(samples) == len(plain) == round(stretch.seconds * 16000)
    inside = slice(RAMP, 32000 - RAMP)
    np.testing.assert_array_equal(samples[inside], plain[inside])
    assert samples[0] == 0
    assert samples[32000] == 0
    assert utterances[0].samples[0] != 0  # the corpus's own samples are left alone


def test_the_text_is_joined_only_when_all_have_one():
    with_text = fake_utterances("a", [2.0, 3.0, 4.0], text="hello you")
    assert join(with_text)[0].text == "hello you hello you hello you"
    with_text[1].text = None
    assert join(with_text)[0].text is None


def test_a_limit_takes_every_voice_by_its_share():
    stretches = join(
        fake_utterances("a", [6.0] * 40) + fake_utterances("b", [6.0] * 20) + fake_utterances("c", [6.0] * 4)
    )
    chosen = choose(stretches, 16)
    counts = {speaker: sum(stretch.speaker == speaker for stretch in chosen) for speaker in "abc"}
    assert counts == {"a": 10, "b": 5, "c": 1}
    assert len({stretch.id for stretch in chosen}) == 16
    assert chosen == choose(stretches[::-1], 16)
    assert chosen != choose(stretches, 16, seed=1)


@pytest.mark.parametrize("limit", [0, 5, 6, 100])
def test_no_limit_or_a_large_one_takes_all(limit):
    stretches = join(fake_utterances("a", [6.0] * 5))
    assert choose(stretches, limit) == stretches
