"""What is measured of a prior: trigrams, divergences, copies, pauses, and the whole protocol on a small one."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from audiovq.data.tokens import streams_of
from audiovq.data.utterance import CodedUtterance
from audiovq.evaluation.generation import Settings, evaluate_generation
from audiovq.evaluation.sampled_speech import (
    Trigram,
    describe_sound,
    distance,
    divergence,
    divergences,
    longest_copies,
    pauses,
)
from audiovq.prior import SpeechPrior
from tests.prior.test_speech import density, prior_for


def test_a_trigram_knows_what_is_decided_and_nothing_of_chance():
    """Book 1 is decided by two frames before; book 2 repeats it; book 3 is noise."""
    rng = np.random.default_rng(0)

    def tape(n):
        first = [1, 2]
        while len(first) < n:
            first.append((first[-1] + first[-2]) % 7)
        return np.array([first, first, rng.integers(0, 7, n)])

    nats = Trigram([tape(4000)], [tape(500)], 7).nats([tape(500)])
    assert nats[0] < 0.1
    assert nats[1] < 0.1
    assert abs(nats[2] - math.log(7)) < 0.1


def test_codes_that_were_never_seen_cost_something_finite():
    seen = [np.zeros((1, 50), np.int64)]
    assert np.isfinite(Trigram(seen, seen, 9).nats([np.full((1, 4), 8)])).all()


def test_divergence_is_zero_of_equals_and_one_bit_of_disjoint():
    x = np.array([1, 2, 2, 3])
    assert divergence(x, np.tile(x, 3)) == pytest.approx(0)
    assert divergence(x, x + 10) == pytest.approx(1)
    assert divergence(x, x[:2]) == divergence(x[:2], x)
    shuffled = [np.array([[1, 2, 1, 2, 1]])]
    found = divergences(shuffled, [np.array([[1, 1, 2, 2, 1]])], 10)
    assert found["unigram"][0] == pytest.approx(0)
    assert found["bigram"][0] > 0.1


def brute_force(sample, tapes, books):
    longest = 0
    for tape in tapes:
        for i in range(sample.shape[1]):
            for j in range(tape.shape[1]):
                n = 0
                while (
                    i + n < sample.shape[1]
                    and j + n < tape.shape[1]
                    and (sample[:books, i + n] == tape[:books, j + n]).all()
                ):
                    n += 1
                longest = max(longest, n)
    return longest


@pytest.mark.parametrize("books", [1, 2])
def test_the_longest_copied_stretch_is_found(books):
    rng = np.random.default_rng(1)
    tapes = [rng.integers(0, 3, (2, 60)), rng.integers(0, 3, (2, 25))]
    samples = [rng.integers(0, 3, (2, 40)) for _ in range(4)]
    samples[0][:, 5:22] = tapes[0][:, 30:47]
    found = longest_copies(samples, tapes, books, 4)
    assert found == [brute_force(s, tapes, books) for s in samples]
    assert found[0] >= 17


def test_pauses_and_voicing_of_a_made_up_sentence():
    time = np.arange(16000) / 16000
    tone = (0.3 * np.sign(np.sin(2 * np.pi * 120 * time))).astype(np.float32)
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal(16000).astype(np.float32)
    quiet = 1e-4 * rng.standard_normal(8000).astype(np.float32)
    samples = np.concatenate([tone, quiet, noise, 0.01 * quiet[:800]])
    assert abs(int(pauses(samples).sum()) - 50) <= 3
    found = describe_sound([samples])
    assert found.pause_seconds == pytest.approx([0.5], abs=0.03)
    assert 0.4 < found.voiced_share < 0.6
    assert found.f0 == pytest.approx([120], abs=2)
    assert sum(found.to_dict()["pause_histogram"]) == pytest.approx(1)
    assert distance([1.0, 2.0], [2.0, 3.0]) == pytest.approx(1.0)
    assert distance([], [1.0]) is None


class Cache:
    """A few recordings as codes."""

    def __init__(self, codec):
        rng = np.random.default_rng(0)
        self.utterances = {
            split: [
                CodedUtterance(
                    f"{split}{i}",
                    f"s{i % 2}",
                    "en",
                    split,
                    rng.integers(0, codec.codebook_size, (codec.n_codebooks, 60)).astype(np.uint16),
                    rng.integers(0, 16, 8),
                    60 * 320,
                    rng.integers(0, 177, 60).astype(np.uint8),
                    rng.integers(100, 180, 2).astype(np.uint8),
                )
                for i in range(4)
            ]
            for split in ("train", "validation", "test")
        }

    def split(self, name):
        return self.utterances[name]


def test_the_protocol_tells_all_its_figures(codec, tmp_path):
    prior = prior_for(codec, languages=["en"])
    source = SpeechPrior(codec, prior, density()[0])
    settings = Settings(n_samples=2, seconds=1.0, dnsmos=False)
    report = evaluate_generation(source, Cache(codec), "test", settings)
    report.write_json(tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text())
    uniform = found["likelihood"]["uniform"]
    assert uniform["bits_per_second"] == pytest.approx(50 * (4 * 5 + np.log2(177)))
    assert uniform["bits_per_second_by_codebooks"] == pytest.approx(50 * (5 * np.arange(1, 5) + np.log2(177)))
    nats = []
    for first in (0, 1):  # the tapes of two speakers
        utterances = Cache(codec).split("test")[first::2]
        tape = torch.from_numpy(np.concatenate([streams_of(u) for u in utterances], axis=1).astype(np.int64))
        with torch.no_grad():
            nats.append(prior.nll(tape[None]))
    expected = torch.cat(nats, dim=-1).mean((0, 2)).numpy()[1:]
    assert found["likelihood"]["prior, without conditions"]["nats_per_code_by_codebook"] == pytest.approx(
        expected, rel=1e-4
    )
    assert set(found["copied"]["samples"]) == {"codebook_1", "codebooks_1_to_2"}
    assert len(report.tables()) == 2
    pytest.importorskip("matplotlib")
    report.draw(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
