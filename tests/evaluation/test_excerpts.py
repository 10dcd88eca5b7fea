from __future__ import annotations

import numpy as np
import pytest

from audiovq.evaluation.protocol import EXCERPT_SECONDS, RAMP, SHORTEST_SECONDS, join_utterances, sample_excerpts
from tests.evaluation.conftest import fake_utterances


def test_every_utterance_is_in_one_excerpt_of_its_own_voice():
    utterances = fake_utterances("a", [1.0, 2.5, 4.0, 0.5, 7.0, 3.0]) + fake_utterances("b", [2.0] * 9)
    excerpts = join_utterances(utterances)
    inside = [utterance.id for excerpt in excerpts for utterance in excerpt.utterances]
    assert sorted(inside) == sorted(utterance.id for utterance in utterances)
    for excerpt in excerpts:
        assert {utterance.speaker for utterance in excerpt.utterances} == {excerpt.speaker}
        assert excerpt.seconds >= SHORTEST_SECONDS


def test_only_the_last_excerpt_of_a_voice_may_be_short():
    excerpts = join_utterances(fake_utterances("a", [2.0] * 11))
    assert [excerpt.seconds for excerpt in excerpts] == pytest.approx([6, 6, 6, 4])
    assert all(excerpt.seconds >= EXCERPT_SECONDS for excerpt in excerpts[:-1])


def test_a_rest_too_short_joins_the_excerpt_before_and_alone_is_left_out():
    assert [excerpt.seconds for excerpt in join_utterances(fake_utterances("a", [4.0, 4.0, 1.0]))] == pytest.approx([9])
    assert join_utterances(fake_utterances("a", [1.0, 1.5])) == []


def test_one_voice_in_two_languages_is_not_mixed():
    excerpts = join_utterances(fake_utterances("a", [4.0], "en") + fake_utterances("a", [4.0], "es"))
    assert sorted(excerpt.language for excerpt in excerpts) == ["en", "es"]
    assert len({excerpt.id for excerpt in excerpts}) == 2


def test_order_of_the_corpus_does_not_matter():
    utterances = fake_utterances("a", [1.0, 2.0, 3.0, 4.0]) + fake_utterances("b", [5.0, 2.0])
    assert join_utterances(utterances) == join_utterances(utterances[::-1])


def test_a_excerpt_is_its_utterances_end_to_end_with_ramps():
    utterances = fake_utterances("a", [2.0, 2.5, 3.0])
    (excerpt,) = join_utterances(utterances)
    samples = excerpt.load()
    plain = np.concatenate([utterance.samples for utterance in utterances])
    assert len(samples) == len(plain) == round(excerpt.seconds * 16000)
    inside = slice(RAMP, 32000 - RAMP)
    np.testing.assert_array_equal(samples[inside], plain[inside])
    assert samples[0] == 0
    assert samples[32000] == 0
    assert utterances[0].samples[0] != 0  # the corpus's own samples are left alone


def test_the_text_is_joined_only_when_all_have_one():
    with_text = fake_utterances("a", [2.0, 3.0, 4.0], text="hello you")
    assert join_utterances(with_text)[0].text == "hello you hello you hello you"
    with_text[1].text = None
    assert join_utterances(with_text)[0].text is None


def test_a_limit_takes_every_voice_by_its_share():
    excerpts = join_utterances(
        fake_utterances("a", [6.0] * 40) + fake_utterances("b", [6.0] * 20) + fake_utterances("c", [6.0] * 4)
    )
    chosen = sample_excerpts(excerpts, 16)
    counts = {speaker: sum(excerpt.speaker == speaker for excerpt in chosen) for speaker in "abc"}
    assert counts == {"a": 10, "b": 5, "c": 1}
    assert len({excerpt.id for excerpt in chosen}) == 16
    assert chosen == sample_excerpts(excerpts[::-1], 16)
    assert chosen != sample_excerpts(excerpts, 16, seed=1)


@pytest.mark.parametrize("limit", [0, 5, 6, 100])
def test_no_limit_or_a_large_one_takes_all(limit):
    excerpts = join_utterances(fake_utterances("a", [6.0] * 5))
    assert sample_excerpts(excerpts, limit) == excerpts
