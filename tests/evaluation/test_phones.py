"""Phones from codes: labels, votes, chance, and the report on recordings whose phones are known."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from audiovq.errors import AudioVQError
from audiovq.evaluation import phones
from audiovq.evaluation.phones import (
    CLASSES,
    SILENCE,
    UNKNOWN,
    code_order,
    dictionary_words,
    labels_at,
    segments_of,
)
from audiovq.evaluation.plots import block_sums
from audiovq.evaluation.probe import evaluate_probe
from tests.evaluation.test_probe import codec, splits  # noqa: F401

SIZE = 64


def test_classes_are_the_dictionarys_and_silence():
    assert len(CLASSES) == len(set(CLASSES)) == 40
    assert CLASSES[-1] == SILENCE


def test_words_are_those_of_the_dictionary():
    assert dictionary_words("You're the FIRST caller - press 1.") == ["you're", "the", "first", "caller", "press", "1"]


def test_fillers_are_silence_and_empty_segments_go():
    found = segments_of([("SIL", 0, 5), ("AH", 5, 3), ("T", 8, 0), ("+NSN+", 8, 4)])
    assert found == [("SIL", 0, 5), ("AH", 5, 8), ("SIL", 8, 12)]


@pytest.mark.parametrize("hop", [320, 640])
def test_labels_are_those_of_the_frames_middles(hop):
    label = labels_at([("SIL", 0, 20), ("AH", 20, 40)], 0.6 * 16000 // hop, hop)
    middles = (np.arange(len(label)) + 0.5) * hop / 16000
    change = 0.2 + phones.WINDOW_SECONDS / 2
    clear = np.abs(middles - change) > 0.011
    expected = np.where(middles < change, CLASSES.index("SIL"), CLASSES.index("AH"))
    inside = middles < 0.39
    np.testing.assert_array_equal(label[clear & inside], expected[clear & inside])
    assert (label[middles > 0.43] == UNKNOWN).all()


def known(n_utterances: int, noise: float, seed: int):
    """Codes that tell the class by their remainder, except for a share of random ones."""
    rng = np.random.default_rng(seed)
    labels = [rng.integers(0, 8, 200) for _ in range(n_utterances)]
    codes = [
        np.where(rng.random(200) < noise, rng.integers(0, SIZE, 200), 8 * rng.integers(0, 8, 200) + x) for x in labels
    ]
    return codes, labels


def both(noise: float):
    parts = {"train": known(10, noise, 0), "test": known(4, noise, 1)}
    return ({part: found[i] for part, found in parts.items()} for i in (0, 1))


def test_votes_find_what_codes_tell():
    codes, labels = both(0.0)
    assert phones.phone_accuracy(codes, labels, SIZE).mean == 1.0
    codes, labels = both(0.4)
    assert phones.phone_accuracy(codes, labels, SIZE).mean == pytest.approx(0.6 + 0.4 / 8, abs=0.05)
    codes, labels = both(1.0)
    assert phones.phone_accuracy(codes, labels, SIZE).mean == pytest.approx(1 / 8, abs=0.05)


def test_the_largest_class_is_trainings():
    labels = {"train": [np.array([3, 3, 5])], "test": [np.array([5, 3, 5, UNKNOWN])]}
    assert phones.largest_class(labels).mean == pytest.approx(1 / 3)


def test_silence_counts_only_where_it_is_asked_for():
    silent = CLASSES.index(SILENCE)
    labels = {"train": [np.array([silent, 2])], "test": [np.array([silent, silent, 2])]}
    codes = {"train": [np.array([0, 1])], "test": [np.array([1, 0, 1])]}
    assert phones.phone_accuracy(codes, labels, 2).mean == pytest.approx(2 / 3)
    assert phones.phone_accuracy(codes, phones.without_silence(labels), 2).mean == 1.0


def test_codes_never_met_say_the_largest_class():
    counts = phones.phone_counts([np.array([0, 0, 1])], [np.array([4, 4, 6])], 3)
    assert phones.codes_to_phones(counts).tolist() == [4, 6, 4]


def test_pairs_tell_what_neither_code_does_and_fall_back_on_the_first():
    rng = np.random.default_rng(0)
    first, second = ({part: [rng.integers(0, 2, 400)] for part in ("train", "test")} for _ in range(2))
    labels = {part: [first[part][0] ^ second[part][0]] for part in first}
    assert phones.phone_accuracy(first, labels, 2).mean < 0.65
    assert phones.joint_accuracy(first, second, labels, 2).mean == 1.0
    unmet = (
        {"train": [np.array([0, 1])], "test": [np.array([0, 1])]},
        {"train": [np.array([0, 0])], "test": [np.array([1, 1])]},
    )
    labels = {"train": [np.array([7, 9])], "test": [np.array([7, 9])]}
    assert phones.joint_accuracy(*unmet, labels, 2).mean == 1.0


def test_transitions_and_their_order():
    found = phones.transitions([np.array([0, 1, 1, 2]), np.array([2, 1])], 4)
    assert found.sum() == 4
    assert found[0, 1] == found[1, 1] == found[1, 2] == found[2, 1] == 1
    counts = np.zeros((4, len(CLASSES)), dtype=np.int64)
    counts[0, 5], counts[2, 1], counts[3, 5], counts[3, 6] = 3, 2, 3, 1
    assert code_order(counts).tolist() == [2, 0, 3]
    assert block_sums(np.arange(9).reshape(3, 3), 2).tolist() == [[8, 7], [13, 8]]


@pytest.fixture
def spoken_splits(monkeypatch):
    """Recordings with text, and an aligner that finds two phones and a pause in each but one."""

    def fake(utterances, progress):
        segments = [("AA", 0, 100), ("SIL", 100, 150), ("S", 150, 310)]
        return {u.id: segments for u in utterances[1:]}, {"no alignment": 1}

    monkeypatch.setattr(phones, "align", fake)
    return {part: [replace(u, text="ah") for u in found] for part, found in splits().items()}


def test_the_report(codec, spoken_splits, tmp_path):  # noqa: F811
    report = evaluate_probe(codec, spoken_splits, kinds=["phones"])
    report.write_json(tmp_path / "probe.json")
    found = json.loads((tmp_path / "probe.json").read_text())["phones"]
    assert found["utterances"] == {"train": 7, "test": 8}
    assert found["skipped"] == {"no alignment": 1}
    own, paper = found["groups"]
    assert (own["frame_rate"], own["codebook_size"]) == (50, 32)
    assert (paper["frame_rate"], paper["codebook_size"]) == (25, 128)
    names = [row["representation"] for row in own["rows"]]
    assert names[:3] == ["codebook 1", "codebook 2", "codebooks 1 and 2 jointly"]
    assert names[3:] == [row["representation"] for row in paper["rows"]]
    for group in found["groups"]:
        assert group["frames"]["speech"]["test"] < group["frames"]["all"]["test"]
        # Two phones only: one who says always the same is right as often as it is spoken.
        assert group["largest_class"]["speech"]["mean"] == pytest.approx(160 / 260, abs=0.02)
    assert len(report.tables()) == 1
    report.draw(tmp_path / "probe.png")
    assert (tmp_path / "probe.png").stat().st_size > 10_000


def test_without_text_there_are_no_phones(codec):  # noqa: F811
    with pytest.raises(AudioVQError, match="with text"):
        evaluate_probe(codec, splits(), kinds=["phones"])
    with pytest.raises(AudioVQError, match="speakers and phones"):
        evaluate_probe(codec, splits(), kinds=["emotion"])


def test_pocketsphinx_aligns_and_the_labels_are_kept(monkeypatch, tmp_path):
    """Noise with the level of speech is no word, but an alignment covers it with the word's phones."""
    pytest.importorskip("pocketsphinx")
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path))
    one = splits()["train"][0]
    utterances = [replace(one, id=text, text=text) for text in ("hello", "press 1", "")]
    found = phones.align(utterances)
    assert found[1]["words outside the dictionary"] == 2
    for segments in found[0].values():
        named = [name for name, _, _ in segments if name != SILENCE]
        assert named in (["HH", "AH", "L", "OW"], ["HH", "EH", "L", "OW"])
        assert all(a[2] == b[1] for a, b in pairwise(segments))
    monkeypatch.setattr(phones.Aligner, "align", None)
    assert phones.align(utterances) == found
