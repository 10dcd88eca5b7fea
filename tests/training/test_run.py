"""Runs of a tiny model on a made-up corpus: they learn, they resume exactly, they say what is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("hydra")

from audiovq.data.shards import write_corpus
from audiovq.errors import AudioVQError
from audiovq.speech.codec import SpeechCodec
from audiovq.training.data import StepSampler
from audiovq.training.run import compose, train


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two voices of harmonic tones, training and validation."""
    folder = tmp_path_factory.mktemp("data") / "tones"
    time = np.arange(48000) / 16000
    with write_corpus(folder) as writer:
        for split in ("train", "validation"):
            for voice, pitch in (("low", 110.0), ("high", 220.0)):
                for take in range(2):
                    phase = 2 * np.pi * pitch * time * (1 + 0.02 * take)
                    tone = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.2 + 0.1 * np.sin(9 * time))
                    writer.add(
                        tone.astype(np.float32),
                        id=f"{voice}-{take}-{split}",
                        speaker=voice,
                        language="en",
                        text=None,
                        source="made up",
                        licence="none",
                        split=split,
                    )
    return folder


def overrides(corpus, folder, **changes):
    settings = {
        "training.max_steps": 8,
        "training.decay_steps": 2,
        "training.batch_size": 2,
        "training.crop_seconds": 0.4,
        "training.other_seconds": 0.5,
        "training.validation_items": 2,
        "training.validate_every": 4,
        "training.checkpoint_every": 4,
        "training.log_every": 2,
        "training.accelerator": "cpu",
        "task.adversarial_start": 2,
        "task.adversarial_samples": 3200,
        "model.quantizer.init_after": 1,
        **changes,
    }
    return compose(
        ["experiment=tiny", f"data.corpora=[{{name: {corpus}}}]", f"run_dir={folder}"]
        + [f"{key}={value}" for key, value in settings.items()]
    )


FAST = {"task.warmup_steps": 5, "task.learning_rate": 3e-3, "task.average_decay": 0.9}


def weights(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def test_a_resumed_run_equals_an_uninterrupted_one(corpus, tmp_path):
    """Through codebook start, discriminators, averaging and schedule; the stop falls between checkpoints."""
    train(overrides(corpus, tmp_path / "whole"))
    interrupted = overrides(corpus, tmp_path / "parts")
    with pytest.raises(RuntimeError, match="pulled the plug"):
        train_until(interrupted, 6)
    assert int(weights(tmp_path / "parts")["step"]) == 4
    train(interrupted)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert int(parts["step"]) == 8
    different = [name for name in whole if not torch.equal(whole[name], parts[name])]
    assert different == []


def test_a_run_that_was_done_goes_on_to_more_steps(corpus, tmp_path):
    train(overrides(corpus, tmp_path))
    before = weights(tmp_path)
    train(overrides(corpus, tmp_path, **{"training.max_steps": 14}))
    after = weights(tmp_path)
    assert int(after["step"]) == 14
    assert any(not torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    assert json.loads((tmp_path / "latest" / "training.json").read_text())["step"] == 14  # beside every fourth
    train(overrides(corpus, tmp_path, **{"training.max_steps": 18}))  # and once more
    assert int(weights(tmp_path)["step"]) == 18


def train_until(config, step, task=None):
    """Break off without any farewell, as a killed process does."""
    from audiovq.training.speech_codec import SpeechCodecTask

    task = task or SpeechCodecTask
    original = task.training_step

    def step_or_stop(self, batch, index):
        if int(self.step) == step:
            raise RuntimeError("pulled the plug")
        return original(self, batch, index)

    task.training_step = step_or_stop
    try:
        train(config)
    finally:
        task.training_step = original


def test_training_learns_and_exports_a_model_that_codes(corpus, tmp_path):
    config = overrides(
        corpus,
        tmp_path,
        **{"training.max_steps": 40, "training.validate_every": 20, "task.adversarial_start": "null", **FAST},
        **{"task.weights.envelope": 0},  # steady tones have no envelope to correlate
    )
    torch.manual_seed(0)
    folder = train(config)
    codec = SpeechCodec.from_pretrained(folder / "best")
    assert json.loads((folder / "best" / "config.json").read_text()) == codec.config
    tone = torch.sin(2 * torch.pi * 220 * torch.arange(16000) / 16000)
    trained = codec.decode(codec.encode([tone]))
    untrained = SpeechCodec(**codec.config).eval()
    from audiovq.training.losses import MultiResolutionMelLoss

    loss = MultiResolutionMelLoss()
    before = loss(untrained.decode(untrained.encode([tone])), tone[None, None])
    assert loss(trained, tone[None, None]) < 0.8 * before


def test_ranks_and_steps_take_every_index_once():
    taken = [list(StepSampler(0, 5, 3, rank, 2)) for rank in range(2)]
    assert sorted(taken[0] + taken[1]) == list(range(30))
    assert list(StepSampler(2, 5, 3, 1, 2)) == taken[1][6:]


def test_wrong_settings_are_one_clear_error(corpus, tmp_path):
    with pytest.raises(AudioVQError, match="no_such_key"):
        compose(["no_such_key=3"])
    with pytest.raises(AudioVQError, match="nowhere"):
        compose(["experiment=nowhere"])
    with pytest.raises(AudioVQError, match=r"no train\.yaml"):
        compose([], tmp_path)
    with pytest.raises(AudioVQError, match="no corpus"):
        train(overrides("no-such-folder", tmp_path))


def test_data_without_a_place_are_asked_for():
    with pytest.raises(AudioVQError, match=r"data\.root=DIR"):
        compose(["experiment=tiny", "data=folder"])
