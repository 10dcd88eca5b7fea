from __future__ import annotations

import numpy as np
import pytest
import torch

from audiovq.bitstream.entropy import EntropyCoder
from audiovq.bitstream.entropy_kernels import PRECISION
from audiovq.bitstream.entropy_model import EntropyModel, load_entropy_model
from audiovq.data.utterance import CodedUtterance
from audiovq.errors import AudioVQError
from audiovq.training.entropy import EntropyNetwork, EntropySettings, EntropyTask, fit, ideal_bits, training_rows
from audiovq.training.entropy_integers import exponential, speaker_weights, to_integers
from audiovq.training.loop import Run
from tests.training.runs import differences, step_of, unplugged_at

SETTINGS = EntropySettings(
    width=16, hidden=16, steps=150, batch=4, learning_rate=1e-2, n_codebooks=((1, 0.3), (2, 0.2), (3, 0.5))
)
TABLES = torch.randn(3, 32, 8, generator=torch.Generator().manual_seed(0))


def utterances(n=12, n_frames=90):
    """Codes that mostly go on from one frame to the next, and whose finer books follow the coarser ones."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(n):
        steps = rng.choice(4, n_frames, p=[0.7, 0.1, 0.1, 0.1])
        first = np.cumsum(steps) % 32
        second = (3 * first + rng.integers(0, 3, n_frames)) % 32
        codes = np.stack([first, second, rng.integers(0, 32, n_frames)]).astype(np.uint16)
        voice = rng.integers(0, 16, 32) * (rng.random(32) < 0.3)
        found.append(CodedUtterance(f"u{i}", f"s{i % 3}", "en", "train", codes, voice, n_frames * 320))
    return found


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return fit(TABLES, utterances(), 40, tmp_path_factory.mktemp("run"), SETTINGS)


def test_what_is_there_is_learned(network):
    bits = ideal_bits(network, utterances(), 40, 3) / (12 * 90)
    assert bits[0] < 4
    assert bits[1] < 4
    assert 4.5 < bits[2] < 6


def test_integers_give_what_the_floats_gave(network, tmp_path):
    coded = utterances()
    batch = torch.from_numpy(np.stack([u.codes[:, :40] for u in coded]).astype(np.int64))
    model = EntropyModel(b"hash", to_integers(network, [batch, batch[:, :1]]), speaker_weights(coded, 16))
    model.save(tmp_path)
    coder = EntropyCoder(load_entropy_model(tmp_path, b"hash"))
    for n_books in (1, 2, 3):
        floats = ideal_bits(network, coded, 40, n_books).sum()
        packets = [u.codes[:n_books, i : i + 40].astype(np.int64) for u in coded for i in range(0, 90, 40)]
        integers = sum(coder.bits(packet) for packet in packets)
        assert integers == pytest.approx(floats, rel=0.005)
        data = coder.encode_codes(packets[0][None])
        assert np.array_equal(coder.decode_codes(data, 1, n_books, 40)[0], packets[0])


def test_logits_depend_on_nothing_a_decoder_does_not_know_yet(network):
    codes = torch.randint(0, 32, (1, 3, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = network(codes)
        for book, t in ((0, 5), (1, 5), (2, 5), (2, 11)):
            changed = codes.clone()
            changed[0, book, t] = (changed[0, book, t] + 1) % 32
            after = network(changed)
            for k in range(3):
                known = t + 1 if k <= book else t
                assert torch.equal(before[k][:, :known], after[k][:, :known])
            if t < 11:
                assert not torch.equal(before[0][:, t + 1], after[0][:, t + 1])


def test_the_same_seed_gives_the_same_network(tmp_path):
    short = EntropySettings(width=8, hidden=8, steps=5, batch=2)
    one, two = (fit(TABLES, utterances(3), 40, tmp_path / name, short) for name in "ab")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_resumed_fit_equals_an_uninterrupted_one(tmp_path):
    """Within an epoch of few rows, and over its end."""
    short = EntropySettings(width=8, hidden=8, steps=9, batch=2)
    fit(TABLES, utterances(3), 40, tmp_path / "whole", short)

    def run(folder):
        torch.manual_seed(0)
        task = EntropyTask(TABLES, utterances(3), utterances(3), 40, short)
        run = Run(folder, 0, 9, decay=1.0, checkpoint_every=5)
        run.resume(task)
        run.fit(task)

    with unplugged_at(EntropyTask, 7):
        run(tmp_path / "parts")
    assert step_of(tmp_path / "parts") == 5
    run(tmp_path / "parts")
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


def test_rows_are_stretches_of_one_speaker_and_half_begin_with_an_utterance():
    coded = utterances()
    starts = {tuple(u.codes[0, :10].tolist()) for u in coded}
    rows = [row for seed in range(30) for row in training_rows(coded, 40, np.random.default_rng(seed))]
    assert all(row.shape == (3, 40) for row in rows)
    share = np.mean([tuple(row[0, :10].tolist()) in starts for row in rows])
    assert 0.4 < share < 0.65


def test_too_few_codes_are_an_error(tmp_path):
    with pytest.raises(AudioVQError, match="too few"):
        fit(TABLES, utterances(1, 70), 40, tmp_path, SETTINGS)


def test_tables_sum_up():
    weights = speaker_weights(utterances(), 16)
    assert weights.shape == (32, 16)
    assert weights.min() > 0
    assert (weights.sum(axis=1) == (1 << PRECISION) - 16).all()
    table = exponential()
    assert table[0] == 1 << 20
    assert table[-1] == 0
    assert (np.diff(table) <= 0).all()


def test_a_new_network_knows_nothing():
    fresh = EntropyNetwork(TABLES, SETTINGS)
    bits = ideal_bits(fresh, utterances(), 40, 3) / (12 * 90)
    assert (np.abs(bits - 5) < 1).all()
