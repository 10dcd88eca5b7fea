"""Words in samples: what counts as speaking, shuffled codes, pitch of continuations; the protocol with coded pitch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiovq.codec.encoder import hz_to_pitch
from audiovq.data.utterance import CodedUtterance
from audiovq.errors import AudioVQError
from audiovq.evaluation.generation import Settings, check_judges, evaluate_generation
from audiovq.evaluation.sampled_speech import (
    Reading,
    pitch_range,
    read_words,
    semitones_between,
    shuffled,
    summarize,
    word_list,
)
from audiovq.interfaces import N_VALUES, EncodedSpeech
from audiovq.prior import SpeakerDistribution, SpeechPrior
from tests.codec.tiny import make_codec
from tests.prior.conftest import make_prior


def test_blocks_are_moved_whole_and_never_stay_as_they_were():
    codes = np.arange(47)
    for seed in range(20):
        mixed = shuffled(codes, 15, np.random.default_rng(seed))
        assert sorted(mixed.tolist()) == codes.tolist()
        assert not np.array_equal(mixed, codes)
        assert np.array_equal(mixed[45:], codes[45:])
        assert all((np.diff(mixed[i : i + 15]) == 1).all() for i in (0, 15, 30))
    assert np.array_equal(shuffled(codes[:10], 15, np.random.default_rng(0)), codes[:10])


class ScriptedWhisper:
    """Reads real words, of three samples and a recording and of each shuffled; the second sample is the unlikelier."""

    def __init__(self):
        self.likely = [-1.0, -3.0, -4.0, -2.0, -1.0, -3.0, -1.0, -3.0]

    def read_scored(self, samples, language):
        return ["the", "cat", "sat"], self.likely.pop(0)


class FakeWhisper:
    """Reads "the cat sat" with -1 nat a word where the first code is first, else "zrk"."""

    def read_scored(self, samples, language):
        assert language == "en"
        return (["the", "cat", "sat"], -1.0) if samples[0] == 0 else (["zrk"], -4.0)


def test_items_are_read_whole_and_with_codes_and_pitch_shuffled_alike():
    heard = []

    def decode(item):
        heard.append((item.codes[0, 0].numpy(), item.pitch[0].numpy()))
        return heard[-1][0].astype(np.float32)

    track = torch.arange(60)
    side = track[None], torch.full((1, 2), 150)
    item = EncodedSpeech(torch.stack([track, track])[None], torch.zeros(1, 4), torch.tensor([60 * 320]), *side)
    found = read_words(FakeWhisper(), decode, item, frozenset({"the", "cat", "sat"}), seed=3)
    assert found == Reading(["the", "cat", "sat"], -1.0, -4.0, 1.0)
    assert found.speaks
    assert np.array_equal(heard[0][0], np.arange(60))
    assert np.array_equal(heard[1][0], heard[1][1])
    assert not np.array_equal(heard[1][0], np.arange(60))


@pytest.mark.parametrize(
    ("reading", "speaks"),
    [
        (Reading(["a", "b", "c"], -1.0, -2.0, 1.0), True),
        (Reading(["a", "b", "c"], -1.0, None, 1.0), True),
        (Reading(["a", "b", "c"], -2.0, -1.0, 1.0), False),
        (Reading(["a", "b", "c"], -1.0, -2.0, 0.67), False),
        (Reading(["a"], -1.0, -2.0, 1.0), False),
        (Reading([], None, None, 0.0), False),
    ],
)
def test_speaking_takes_real_words_that_are_likelier_than_shuffled_ones(reading, speaks):
    assert reading.speaks == speaks
    found = summarize([reading, Reading(["a", "b", "c"], -1.0, -2.0, 1.0)])
    assert found["with_words"] == (1.0 if speaks else 0.5)
    assert found["n"] == 2


def test_word_lists_come_from_a_file_or_from_transcripts(tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path))
    monkeypatch.setattr("audiovq.evaluation.sampled_speech.WORD_LISTS", ())
    with pytest.raises(AudioVQError, match="wamerican"):
        word_list()
    (tmp_path / "data" / "words").mkdir(parents=True)
    (tmp_path / "data" / "words" / "en.txt").write_text("Cat\ncat's\nnaïve\n")
    assert word_list()[0] == {"cat", "cats", "naive"}


def test_distances_of_pitch_are_in_semitones():
    low, high = (hz_to_pitch(torch.tensor([0.0, hz, hz, 0.0])).numpy() for hz in (100.0, 200.0))
    assert semitones_between(low, high) == pytest.approx(12, abs=0.3)
    assert semitones_between(low, low) == 0
    assert semitones_between(low, np.zeros(4, np.int64)) is None
    assert pitch_range(np.concatenate([low, high])) == pytest.approx(12, abs=0.3)
    assert pitch_range(np.zeros(4, np.int64)) is None


class Cache:
    """A few recordings as codes with pitch."""

    def __init__(self, codec):
        rng = np.random.default_rng(0)
        sizes = (codec.n_codebooks, 60)
        self.utterances = {
            split: [
                CodedUtterance(
                    *(f"{split}{i}", f"s{i % 2}", "en", split),
                    rng.integers(0, codec.codebook_size, sizes).astype(np.uint16),
                    rng.integers(0, 16, 8),
                    60 * 320,
                    pitch=rng.integers(0, 40, 60).astype(np.uint8),
                    levels=np.full(2, 160, np.uint8),
                )
                for i in range(4)
            ]
            for split in ("train", "validation", "test")
        }

    def split(self, name):
        return self.utterances[name]


def test_the_protocol_measures_pitch_beside_codes():
    codec, rng = make_codec(), np.random.default_rng(0)
    sizes = {"n_codebooks": 4, "codebook_size": 32, "speaker_dim": 8, "pitch_values": N_VALUES + 1}
    prior = make_prior(languages=["en"], **sizes)
    names = [f"s{i % 3}" for i in range(12)]
    speakers = SpeakerDistribution.fit(rng.integers(0, 16, (12, 8)), names, np.full(12, 30.0), 16, np.full(12, 150.0))
    report = evaluate_generation(
        SpeechPrior(codec, prior, speakers), Cache(codec), "test", Settings(n_samples=2, seconds=1.0, dnsmos=False)
    )
    found = report.figures["likelihood"]
    assert found["uniform"]["nats_per_pitch"] == pytest.approx(np.log(N_VALUES + 1))
    assert len(found["prior"]["nats_per_code_by_codebook"]) == 4
    # Pitch is one of 40 values here, and the trigram has seen which.
    assert np.log(40) - 0.1 < found["interpolated trigram"]["nats_per_pitch"] < np.log(N_VALUES + 1) - 0.5
    uniform = 50 * (np.log2(N_VALUES + 1) + 4 * 5)
    assert found["uniform"]["bits_per_second"] == pytest.approx(uniform)
    assert len(report.tables()) == 2


class Embedding:
    """A speaker encoder that hears the same speaker everywhere."""

    def embed(self, samples):
        return np.array([0.6, 0.8])


def test_the_protocol_prints_words_and_continuations(monkeypatch, capsys):
    from rich.console import Console

    module = "audiovq.evaluation.generation"
    monkeypatch.setattr(f"{module}.word_list", lambda corpora: (frozenset({"the", "cat", "sat"}), "three words"))
    monkeypatch.setattr(f"{module}.shared_whisper", ScriptedWhisper)
    monkeypatch.setattr("audiovq.evaluation.sampled_speech.SpeakerCosine", Embedding)
    codec, rng = make_codec(), np.random.default_rng(0)
    sizes = {"n_codebooks": 4, "codebook_size": 32, "speaker_dim": 8, "pitch_values": N_VALUES + 1}
    prior, names = make_prior(languages=["en"], **sizes), [f"s{i % 3}" for i in range(12)]
    speakers = SpeakerDistribution.fit(rng.integers(0, 16, (12, 8)), names, np.full(12, 30.0), 16, np.full(12, 150.0))
    settings = Settings(n_samples=1, seconds=1.0, dnsmos=False, n_words=3, n_prompts=2)
    report = evaluate_generation(SpeechPrior(codec, prior, speakers), Cache(codec), "test", settings)
    console = Console(width=200)
    for table in report.tables():
        console.print(table)
    lines = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert "English by Whisper; 3 words are known as real" in lines
    assert "items with real words alone, likelier than shuffled 2 of 3 1 of 1" in lines
    assert "log-probability per word, nats -2 -1" in lines
    assert "the same, blocks of 0.3 s shuffled -2.67 -3" in lines
    assert "speaker cosine 1" in lines
    assert any(line.startswith("pitch range of the continuation, semitones") for line in lines)
    assert any(line.startswith("longest copy of training, codebook 1, s") for line in lines)


def test_what_judges_need_is_missed_before_the_work(monkeypatch):
    def missing(names):
        raise AudioVQError(f"no package for {' and '.join(names)}")

    monkeypatch.setattr("audiovq.evaluation.generation.make_metrics", missing)
    with pytest.raises(AudioVQError, match="no package for dnsmos and speaker"):
        check_judges(Settings(n_prompts=1))
