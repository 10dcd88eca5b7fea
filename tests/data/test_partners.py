"""Crops with partners: decided by their index, in the partner's register, and none where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiovq.data.corpora import open_corpora
from audiovq.data.crops import CropDataset
from audiovq.data.partners import PartneredCrops
from audiovq.data.shards import write_corpus
from audiovq.data.virtual import VirtualVoices
from audiovq.errors import AudioVQError
from audiovq.speech.pitch import median_pitch, track_pitch

PITCHES = {"low": 110.0, "high": 220.0}


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Two voices of harmonic tones with a little melody, and one that only hisses."""
    folder = tmp_path_factory.mktemp("data") / "voices"
    time = np.arange(48000) / 16000
    rng = np.random.default_rng(0)
    with write_corpus(folder) as writer:
        for voice, pitch in [*PITCHES.items(), ("hiss", 0.0)]:
            for take in range(2):
                melody = pitch * 2 ** (0.1 * np.sin(5 * time + take))
                phase = 2 * np.pi * np.cumsum(melody) / 16000
                tone = sum(np.sin(k * phase) / k for k in range(1, 12))
                samples = 0.05 * rng.standard_normal(48000) if voice == "hiss" else 0.2 * tone
                about = {"source": "made up", "licence": "none", "split": "train", "language": "en", "text": None}
                writer.add(samples.astype(np.float32), id=f"{voice}-{take}", speaker=voice, **about)
    return CropDataset(open_corpora([{"name": str(folder)}], "train"), 16000, 12000, seed=7)


@pytest.fixture(scope="module")
def partnered(crops):
    return PartneredCrops(crops, 0.5)


def test_half_of_the_items_have_partners_and_all_have_the_same_shapes(partnered):
    items = [partnered[i] for i in range(24)]
    assert {i % 2 for i, item in enumerate(items) if item["wanted"] >= 0} == {1}
    for item in items:
        assert item["source"].shape == (1, 16000)
        assert item["voice"].shape == (1, 12000)
        assert item["wanted"] != item["speaker"]
        if item["wanted"] < 0:
            assert not item["source"].any()
    again = partnered[3]
    assert all(torch.equal(torch.as_tensor(again[key]), torch.as_tensor(items[3][key])) for key in again)


def test_the_source_is_in_the_partners_register(partnered):
    checked = set()
    for i in range(1, 60, 2):
        item = partnered[i]
        if item["wanted"] < 0:
            continue
        theirs = PITCHES[partnered.speakers[item["wanted"]]]
        found = median_pitch(track_pitch(item["source"][0].numpy()))
        assert abs(12 * np.log2(found / theirs)) < 4  # one semitone of spread is drawn on purpose, melodies add theirs
        assert float(item["source"].std()) == pytest.approx(float(item["waveform"].std()), rel=0.01)
        checked.add(partnered.speakers[item["wanted"]])
    assert checked == set(PITCHES)


def test_partners_speak_long_enough_and_are_not_left_out(crops):
    def asked(**settings):
        items = PartneredCrops(crops, 1.0, **settings)
        return {items.speakers[items[i]["wanted"]] for i in range(12) if items[i]["wanted"] >= 0}

    assert asked(least_seconds=5.0) == set(PITCHES)
    assert asked(least_seconds=7.0) == set(PITCHES)  # nobody speaks so long: everybody is one
    assert asked(without=["high"]) == {"low"}
    with pytest.raises(AudioVQError, match="no such speaker"):
        PartneredCrops(crops, 1.0, without=["nobody"])


def test_rarer_partners_are_asked_for_less(crops):
    items = PartneredCrops(crops, 1.0)
    hiss, (low, high) = items.speakers.index("hiss"), [items.speakers.index(name) for name in PITCHES]
    items.weights = np.where(np.equal(items.partners, low), 3.0, 1.0)
    found = [items.partner(i, hiss) for i in range(400)]
    assert found == [None] * 400  # a hiss has no register to move from
    items.registers[hiss] = 150.0
    asked = [items.partner(i, hiss)[0] for i in range(400)]
    assert asked.count(low) == pytest.approx(300, abs=30)
    assert asked.count(high) == 400 - asked.count(low)


def test_who_has_no_register_has_no_partner(partnered):
    hiss = partnered.speakers.index("hiss")
    assert partnered.registers[hiss] is None
    items = [partnered[i] for i in range(1, 60, 2)]
    assert hiss in {item["speaker"] for item in items}
    assert all(item["wanted"] == -1 for item in items if item["speaker"] == hiss)
    assert hiss not in {item["wanted"] for item in items}


def test_virtual_voices_are_the_same_in_crop_and_reference_and_partners_have_theirs(crops):
    changing = CropDataset(
        [u for tape in crops.tapes for u in tape.utterances], 16000, 12000, seed=7, virtual=VirtualVoices(0.5, 1.3)
    )
    partnered, seen = PartneredCrops(changing, 0.5), {True: 0, False: 0}
    for i in range(1, 80, 2):
        item = partnered[i]
        assert item["waveform"].shape == (1, 16000)
        if item["wanted"] < 0:
            continue
        own = PITCHES[partnered.speakers[item["speaker"]]] * (item["speed"] or 1.0)
        found = [median_pitch(track_pitch(item[name][0].numpy())) for name in ("waveform", "other", "source", "voice")]
        for pitch in found[:2]:
            assert abs(12 * np.log2(pitch / own)) < 2.5  # melodies
        assert abs(12 * np.log2(found[2] / found[3])) < 4.5
        seen[item["virtual"]] += 1
        again = partnered[i]
        assert all(torch.equal(torch.as_tensor(again[key]), torch.as_tensor(item[key])) for key in again)
    assert min(seen.values()) > 3
