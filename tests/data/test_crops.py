"""Crops: decided by their index, never overlapping their other stretch, taken from what was recorded."""

from __future__ import annotations

import numpy as np
import pytest

from audiovq.data.crops import CropDataset
from audiovq.data.tape import Tape
from audiovq.errors import AudioVQError
from tests.data.conftest import make_utterance


def numbered(lengths: list[int], speaker: str = "s", first: int = 1) -> list:
    """Utterances whose samples count on, so that a sample tells where it is from."""
    utterances, position = [], first
    for index, length in enumerate(lengths):
        samples = np.arange(position, position + length)
        utterances.append(make_utterance(samples, id=f"{speaker}{index}", speaker=speaker))
        position += length
    return utterances


def many(rng: np.random.Generator) -> list:
    return [u for s in range(5) for u in numbered([int(n) for n in rng.integers(30, 900, 3 + 4 * s)], f"s{s}")]


def test_an_index_has_one_item(rng):
    utterances = many(rng)
    one, two = (CropDataset(utterances, 320, 200, seed=3, gain_db=(-12, 6)) for _ in range(2))
    for index in (5, 0, 10**9, 5):
        a, b = one[index], two[index]
        assert a["speaker"] == b["speaker"]
        assert (a["waveform"] == b["waveform"]).all()
        assert (a["other"] == b["other"]).all()
    assert not (one[0]["waveform"] == one[1]["waveform"]).all()
    assert not (one[0]["waveform"] == CropDataset(utterances, 320, 200, seed=4, gain_db=(-12, 6))[0]["waveform"]).all()


def test_shapes_types_and_speakers(rng):
    utterances = many(rng)
    dataset = CropDataset(utterances, 320, 200)
    seen = set()
    for index in range(200):
        item = dataset[index]
        assert item["waveform"].shape == (1, 320)
        assert item["other"].shape == (1, 200)
        assert str(item["waveform"].dtype) == str(item["other"].dtype) == "torch.float32"
        seen.add(item["speaker"])
    assert seen == set(range(5))
    assert dataset.speakers == [f"s{s}" for s in range(5)]


@pytest.mark.parametrize("lengths", [[3000], [40] * 30, [500, 60, 70, 2000], [100, 100], [37], [1]])
def test_other_never_overlaps_the_crop(lengths):
    dataset = CropDataset(numbered(lengths), 320, 200, seed=1)
    for index in range(300):
        _, (start, n_crop), (other, n_other) = dataset.places(index)
        total = sum(lengths)
        crop = {(start + k) % total for k in range(n_crop)}
        rest = {(other + k) % total for k in range(n_other)}
        assert n_crop >= 1
        assert not crop & rest
        if total >= 520:
            assert (n_crop, n_other) == (320, 200)


def test_other_is_of_other_utterances_when_they_suffice():
    lengths = [500, 700, 600, 900]
    dataset = CropDataset(numbered(lengths), 320, 200)
    owner = np.repeat(range(4), lengths)
    for index in range(300):
        _, (start, n_crop), (other, n_other) = dataset.places(index)
        crop = set(owner[(start + np.arange(n_crop)) % len(owner)])
        if sum(lengths[k] for k in range(4) if k not in crop) >= 200 + max(lengths):
            assert not crop & set(owner[(other + np.arange(n_other)) % len(owner)])


def test_items_hold_the_samples_of_their_places():
    dataset = CropDataset(numbered([4000, 5000]), 320, 200)
    for index in range(100):
        _, (start, n_crop), _ = dataset.places(index)
        waveform = dataset[index]["waveform"][0].numpy()
        expected = (start + np.arange(n_crop)) % 9000 + 1
        inner = np.abs(expected[:, None] - [1, 4000, 4001, 9000]).min(axis=1) > 80  # joints are faded
        np.testing.assert_array_equal(waveform[inner], expected[inner])


def test_a_tape_reads_the_same_however_it_is_cut(rng):
    tape = Tape(numbered([300, 170, 90, 1000]))
    whole = tape.read(0, tape.n_samples)
    for _ in range(50):
        start, length = int(rng.integers(tape.n_samples)), int(rng.integers(1, 700))
        np.testing.assert_array_equal(
            tape.read(start, length), np.take(whole, range(start, start + length), mode="wrap")
        )


def test_short_utterances_are_joined_not_padded():
    item = CropDataset(numbered([100] * 20), 640, 320)[0]
    assert (item["waveform"] == 0).float().mean() < 0.02


def test_a_voice_too_short_for_both_is_padded_and_repeated():
    dataset = CropDataset(numbered([150]), 320, 200)
    item = dataset[0]
    _, (_, n_crop), (_, n_other) = dataset.places(0)
    assert (n_crop, n_other) == (75, 75)
    assert (item["waveform"][0, 75:] == 0).all()
    other = item["other"][0].numpy()
    np.testing.assert_array_equal(other[75:150], other[:75])


def test_speakers_are_drawn_by_tempered_duration():
    utterances = numbered([1000], "short") + numbered([16000], "long")
    dataset = CropDataset(utterances, 100, 100, temper=0.5)
    long = np.mean([dataset.speakers[dataset.places(i)[0]] == "long" for i in range(4000)])
    assert abs(long - 4 / 5) < 0.03


def test_gain_never_clips_and_stays_in_its_range(rng):
    loud = [make_utterance(rng.uniform(-0.9, 0.9, 2000)), make_utterance(rng.uniform(-0.01, 0.01, 2000))]
    plain = CropDataset(loud, 400, 300, seed=1)
    gained = CropDataset(loud, 400, 300, seed=1, gain_db=(-12, 6))
    gains = []
    for index in range(200):
        a, b = plain[index], gained[index]
        ratio = float(b["waveform"].abs().sum() / a["waveform"].abs().sum())
        np.testing.assert_allclose(b["other"], a["other"] * ratio, rtol=1e-4)
        assert max(b["waveform"].abs().max(), b["other"].abs().max()) <= 1
        gains.append(20 * np.log10(ratio))
    assert min(gains) > -12.01
    assert max(gains) < 6.01
    assert max(gains) - min(gains) > 12


def test_disjoint_indices_cover_what_one_process_sees(rng):
    dataset = CropDataset(many(rng), 320, 200)
    joint = [dataset[i]["waveform"].sum().item() for i in range(16)]
    ranks = [
        [dataset[step * 8 + rank * 4 + k]["waveform"].sum().item() for step in range(2) for k in range(4)]
        for rank in range(2)
    ]
    assert sorted(joint) == sorted(ranks[0] + ranks[1])


def test_no_utterances_is_a_clear_error():
    with pytest.raises(AudioVQError, match="no utterances"):
        CropDataset([], 320, 200)


def test_languages_are_drawn_by_their_weights(rng):
    lengths = [400] * 10
    spoken = [
        make_utterance(rng.standard_normal(n), id=f"{who}{language}{i}", speaker=who, language=language)
        for who, language in (("a", "en"), ("a", "es"), ("b", "cs"))
        for i, n in enumerate(lengths)
    ]
    dataset = CropDataset(spoken, 320, 200, language_weights={"en": 6})
    assert dataset.speakers == ["a (en)", "a (es)", "b (cs)"]
    drawn = np.bincount([dataset.places(index)[0] for index in range(4000)]) / 4000
    assert drawn == pytest.approx([6 / 8, 1 / 8, 1 / 8], abs=0.03)
    with pytest.raises(AudioVQError, match="xx"):
        CropDataset(spoken, 320, 200, language_weights={"xx": 6})
