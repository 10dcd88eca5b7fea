"""A prepared corpus gives back what was written, whole and in parts."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from audiovq.data.utterance import open_shards, read_manifest, write_corpus, write_shards
from audiovq.errors import AudioVQError
from tests.data.conftest import make_utterance

FIELDS = {"speaker": "s", "language": "en", "text": "ahoj, světe", "source": "test", "licence": "CC0-1.0"}


@pytest.fixture
def corpus(tmp_path, rng):
    """Twelve utterances over several shards, and their samples."""
    samples = [rng.integers(-32768, 32768, length).astype(np.int16) for length in rng.integers(1, 900, 12)]
    with write_corpus(tmp_path / "corpus", shard_samples=1000) as writer:
        for index, part in enumerate(samples):
            split = ("train", "validation", "test")[index % 3]
            writer.add(part, id=f"u{index}", split=split, level_db=-20.5, **FIELDS)
    return tmp_path / "corpus", samples


def test_round_trip_is_exact_over_several_shards(corpus):
    folder, samples = corpus
    utterances = open_shards(folder)
    assert len(list(folder.glob("shard-*.i16"))) > 2
    for utterance, expected in zip(utterances, samples, strict=True):
        loaded = utterance.load()
        assert loaded.dtype == np.float32
        np.testing.assert_array_equal((loaded * 32768).astype(np.int16), expected)
        assert utterance.n_samples == len(expected)
        assert utterance.text == "ahoj, světe"


def test_a_part_is_the_slice_of_the_whole(corpus, rng):
    folder, samples = corpus
    for utterance, expected in zip(open_shards(folder), samples, strict=True):
        whole = utterance.load()
        for _ in range(5):
            start, length = (int(n) for n in rng.integers(0, len(expected) + 3, 2))
            np.testing.assert_array_equal(utterance.load(start, length), whole[start : start + length])


def test_splits_are_disjoint_and_complete(corpus):
    folder, samples = corpus
    ids = [{u.id for u in open_shards(folder, split)} for split in ("train", "validation", "test", "unseen")]
    assert sum(map(len, ids)) == len(set.union(*ids)) == len(samples)


def test_float_samples_become_the_nearest_int16(tmp_path):
    samples = np.array([0.0, 1 / 32768, 0.4 / 32768, 0.6 / 32768, -1.0, 1.0, 7.0], np.float32)
    with write_corpus(tmp_path / "c") as writer:
        writer.add(samples, id="a", split="train", **FIELDS)
    loaded = open_shards(tmp_path / "c")[0].load() * 32768
    np.testing.assert_array_equal(loaded, [0, 1, 0, 1, -32768, 32767, 32767])


def test_utterances_pickle_without_their_samples(corpus):
    folder, _ = corpus
    big = max(open_shards(folder), key=lambda u: u.n_samples)
    data = pickle.dumps(big)
    assert len(data) < 1000 < 2 * big.n_samples
    np.testing.assert_array_equal(pickle.loads(data).load(), big.load())


def test_an_error_leaves_the_old_corpus_in_place(corpus):
    folder, samples = corpus
    with pytest.raises(ValueError, match="licence"), write_corpus(folder) as writer:
        writer.add(samples[0], id="new")
    assert len(read_manifest(folder)) == len(samples)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_corpus_replaced_does_not_change_under_its_readers(corpus):
    folder, samples = corpus
    before = open_shards(folder)
    sent = pickle.dumps(before[0])
    with write_corpus(folder) as writer:
        writer.add(np.zeros(5, np.int16), id="new", split="train", **FIELDS)
    assert [u.id for u in open_shards(folder)] == ["new"]
    np.testing.assert_array_equal((before[0].load() * 32768).astype(np.int16), samples[0])
    with pytest.raises(AudioVQError, match="replaced"):
        pickle.loads(sent)  # another process would have read other samples
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_any_corpus_can_be_turned_into_shards(tmp_path, rng):
    utterances = [make_utterance(rng.uniform(-1, 1, 500), id=f"u{i}", speaker=f"s{i % 2}") for i in range(4)]
    write_shards(utterances, tmp_path / "c")
    for before, after in zip(utterances, open_shards(tmp_path / "c"), strict=True):
        assert before == after  # all but the reader
        np.testing.assert_allclose(before.load(), after.load(), atol=0.51 / 32768)


@pytest.mark.parametrize("damage", ["missing", "cut", "gone", "garbled"])
def test_damage_is_one_clear_error(corpus, damage):
    folder, _ = corpus
    shard = folder / "shard-00001.i16"
    if damage == "missing":
        (folder / "manifest.jsonl").unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-2])
    elif damage == "gone":
        shard.unlink()
    else:
        (folder / "manifest.jsonl").write_text("{")
    with pytest.raises(AudioVQError) as error:
        open_shards(folder)
    assert "\n" not in str(error.value)


def test_groups_and_phones_are_kept_and_shared(tmp_path):
    phones = [[0.1, "a"], [0.2, "b"]]
    fields = {**FIELDS, "split": "train"}
    with write_corpus(tmp_path / "a") as writer:
        writer.add(np.zeros(5, np.int16), id="u0", group="g", phones=phones, **fields)
        writer.add(np.zeros(5, np.int16), id="u1", group="g", phones=None, **fields)
        writer.add(np.zeros(5, np.int16), id="u2", phones=phones[:1], **fields)
        writer.add(np.zeros(5, np.int16), id="g", **fields)
    write_shards(open_shards(tmp_path / "a"), tmp_path / "b")
    expected = ((0.1, "a"), (0.2, "b"))
    for folder in "ab":
        utterances = open_shards(tmp_path / folder)
        assert [u.group for u in utterances] == ["g", "g", None, None]
        assert [u.phones for u in utterances] == [expected, expected, expected[:1], None]
