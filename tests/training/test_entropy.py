from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save

from audiovq.bitstream.entropy import EntropyCoder
from audiovq.bitstream.entropy_kernels import PRECISION
from audiovq.bitstream.entropy_model import FILE_NAME, load_entropy_model
from audiovq.data.codes import CodesFacts, write_coded
from audiovq.data.utterance import CodedUtterance
from audiovq.errors import AudioVQError
from audiovq.training.codes import EntropyTask, training_rows
from audiovq.training.entropy_network import (
    EntropyNetwork,
    EntropySettings,
    exponential,
    ideal_bits,
    packets_of,
    speaker_weights,
)
from audiovq.training.run import Run
from tests.training.runs import differences, step_of, unplugged_at

NETWORK = {"width": 16, "hidden": 16}
TABLES = torch.randn(3, 32, 8, generator=torch.Generator().manual_seed(0))
SHARES = ((1, 0.3), (2, 0.2), (3, 0.5))


def utterances(n=12, n_frames=90, split="train"):
    """Codes that mostly go on from one frame to the next, and whose finer books follow the coarser ones.

    The third codebook's codes are below 8 in voiced frames and above in the others.
    """
    rng = np.random.default_rng(0)
    found = []
    for i in range(n):
        steps = rng.choice(4, n_frames, p=[0.7, 0.1, 0.1, 0.1])
        first = np.cumsum(steps) % 32
        second = (3 * first + rng.integers(0, 3, n_frames)) % 32
        pitch = np.where(np.arange(n_frames) // 7 % 2, 60 + i, 0).astype(np.uint8)
        third = rng.integers(0, 8, n_frames) + 24 * (pitch == 0)
        codes = np.stack([first, second, third]).astype(np.uint16)
        voice = rng.integers(0, 16, 32) * (rng.random(32) < 0.3)
        levels = np.full(-(-n_frames // 40), 160, np.uint8)
        about = (f"u{i}", f"s{i % 3}", "en", split)
        found.append(CodedUtterance(*about, codes, voice, n_frames * 320, pitch, levels))
    return found


def cache_of(folder, n=12, n_frames=90):
    """Codes on disk, with as many for validation."""
    made = [u for split in ("train", "validation") for u in utterances(n, n_frames, split)]
    facts = CodesFacts("01020304", 3, 32, 16000, 320, 40, 16)
    return write_coded(folder, facts, lambda n_done: made[n_done:], TABLES.numpy())


def make_task(folder, batch_size=4, network=NETWORK, **sizes):
    torch.manual_seed(0)
    codes = folder if (folder / "index.json").is_file() else cache_of(folder, **sizes).folder
    return EntropyTask(network, None, [], batch_size, 1e-2, shares=SHARES, codes=str(codes), device="cpu")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Trained for a while."""
    folder = tmp_path_factory.mktemp("run")
    made = make_task(folder / "codes")
    Run(folder, 0, 150, decay=1.0, validate_every=1000).fit(made)
    return made


def test_what_is_there_is_learned(task):
    bits = ideal_bits(task.model, task.utterances, 40, 3) / (12 * 90)
    assert bits[0] < 4
    assert bits[1] < 4
    assert bits[2] < 4.2


def test_integers_give_what_the_floats_gave(task, tmp_path):
    task.export(tmp_path)
    coder = EntropyCoder(load_entropy_model(tmp_path, bytes.fromhex("01020304")))
    for n_books in (1, 2, 3):
        floats = ideal_bits(task.model, task.utterances, 40, n_books).sum()
        packets = packets_of(task.utterances, 40)
        assert sum(coder.bits(codes[:n_books], voiced) for codes, voiced in packets) == pytest.approx(floats, rel=0.005)
        codes, voiced = packets[0]
        data = coder.encode_codes(codes[None, :n_books], voiced[None])
        assert np.array_equal(coder.decode_codes(data, 1, n_books, 40, voiced[None])[0], codes[:n_books])


def test_a_run_begins_from_the_weights_of_another(task, tmp_path):
    task.export(tmp_path / "best")
    other = make_task(tmp_path / "codes")
    before = ideal_bits(other.model, task.utterances, 40, 3).sum()
    other.begin_from(str(tmp_path / "best"))
    after = ideal_bits(other.model, task.utterances, 40, 3).sum()
    assert after < 0.9 * before
    assert after == pytest.approx(ideal_bits(task.model, task.utterances, 40, 3).sum(), rel=1e-3)
    wider = make_task(tmp_path / "codes", network={"width": 32, "hidden": 16})
    with pytest.raises(AudioVQError, match="do not fit"):
        wider.begin_from(str(tmp_path / "best"))


def test_a_run_begins_from_the_entropy_model_of_a_codec(task, tmp_path, monkeypatch):
    """Integers hold the float network up to rounding, whatever scales they were made with."""
    task.export(tmp_path / "best")
    codec = tmp_path / "codec"
    codec.mkdir()
    (codec / "model.safetensors").write_bytes(save({"encoder.weight": torch.zeros(2)}))
    monkeypatch.setattr("audiovq.training.codes.codes_hash", lambda folder: bytes.fromhex("01020304"))
    other = make_task(tmp_path / "codes")
    with pytest.raises(AudioVQError, match="do not fit"):
        other.begin_from(str(codec))
    shutil.copyfile(tmp_path / "best" / FILE_NAME, codec / FILE_NAME)
    other.begin_from(str(codec))
    wanted = ideal_bits(task.model, task.utterances, 40, 3).sum()
    assert ideal_bits(other.model, task.utterances, 40, 3).sum() == pytest.approx(wanted, rel=0.005)


def test_what_is_saved_counts_pitch_and_level(task):
    found = task.validate()
    nominal = 3 * 5 + 3.0  # 150 b/s at 50 frames a second
    paid = sum(found[f"bits_{k}"] for k in (1, 2, 3)) + found["side"]
    assert found["saved_3"] == pytest.approx(1 - paid / nominal)
    assert found["side"] > 0


def test_logits_depend_on_nothing_a_decoder_does_not_know_yet(task):
    network = task.model
    codes = torch.randint(0, 32, (1, 3, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        voiced = torch.tensor([[0, 1, 1] * 4])
        before = network(codes, voiced)
        for book, t in ((0, 5), (1, 5), (2, 5), (2, 11)):
            changed = codes.clone()
            changed[0, book, t] = (changed[0, book, t] + 1) % 32
            after = network(changed, voiced)
            for k in range(3):
                known = t + 1 if k <= book else t
                assert torch.equal(before[k][:, :known], after[k][:, :known])
            if t < 11:
                assert not torch.equal(before[0][:, t + 1], after[0][:, t + 1])


def test_the_same_seed_gives_the_same_network(tmp_path):
    small = {"width": 8, "hidden": 8}
    one, two = (make_task(tmp_path / "codes", 2, small, n=3) for _ in "ab")
    for number, made in enumerate((one, two)):
        Run(tmp_path / str(number), 0, 5, decay=1.0).fit(made)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))


def test_a_resumed_fit_equals_an_uninterrupted_one(tmp_path):
    """Within an epoch of few rows, and over its end."""

    def run(folder):
        made = make_task(tmp_path / "codes", 2, {"width": 8, "hidden": 8}, n=3)
        run = Run(folder, 0, 9, decay=1.0, checkpoint_every=5)
        run.resume(made)
        run.fit(made)

    run(tmp_path / "whole")
    with unplugged_at(EntropyTask, 7):
        run(tmp_path / "parts")
    assert step_of(tmp_path / "parts") == 5
    run(tmp_path / "parts")
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


def test_rows_are_stretches_of_one_speaker_and_half_begin_with_an_utterance():
    coded = utterances()
    starts = {tuple(u.codes[0, :10].tolist()) for u in coded}
    found = [row for seed in range(30) for row in training_rows(coded, 40, np.random.default_rng(seed))]
    rows = [codes for codes, _ in found]
    assert all(row.shape == (3, 40) for row in rows)
    assert all(np.array_equal(voiced, codes[2] < 8) for codes, voiced in found)
    share = np.mean([tuple(row[0, :10].tolist()) in starts for row in rows])
    assert 0.4 < share < 0.65


def test_too_few_codes_are_an_error(tmp_path):
    with pytest.raises(AudioVQError, match="too few"):
        make_task(tmp_path / "codes", n=1, n_frames=70)


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
    fresh = EntropyNetwork(TABLES, EntropySettings(**NETWORK))
    bits = ideal_bits(fresh, utterances(), 40, 3) / (12 * 90)
    assert (np.abs(bits - 5) < 1).all()
