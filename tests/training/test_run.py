"""Configurations and the order of data: what is wrong is said in one line, and every index is taken once."""

from __future__ import annotations

from itertools import islice

import pytest

pytest.importorskip("hydra")

from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.training.batches import StepSampler
from audiovq.training.run import compose, train


def test_ranks_and_steps_take_every_index_once():
    taken = [list(islice(StepSampler(0, 3, rank, 2), 15)) for rank in range(2)]
    assert sorted(taken[0] + taken[1]) == list(range(30))
    assert list(islice(StepSampler(2, 3, 1, 2), 9)) == taken[1][6:]


def test_wrong_settings_are_one_clear_error(codec, tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path / "cache"))
    save_weights(codec, tmp_path / "model")
    with pytest.raises(AudioVQError, match="no_such_key"):
        compose(["no_such_key=3"])
    with pytest.raises(AudioVQError, match=r"did you mean training\.batch_size\?"):
        compose(["training.batchsize=3"])
    with pytest.raises(AudioVQError, match="nowhere"):
        compose(["experiment=nowhere"])
    with pytest.raises(AudioVQError, match=r"no train\.yaml"):
        compose([], tmp_path)
    with pytest.raises(AudioVQError, match="unknown corpus"):
        train(
            compose(["experiment=prior", f"task.codec={tmp_path / 'model'}", "data.corpora=[{name: no-such-folder}]"])
        )


def test_data_without_a_place_are_asked_for():
    with pytest.raises(AudioVQError, match=r"data\.root=DIR"):
        compose(["experiment=prior", "data=folder"])
