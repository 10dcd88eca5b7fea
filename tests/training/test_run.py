"""Runs of a tiny model on a made-up corpus: they learn, they resume exactly, they say what is wrong."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
import torch

pytest.importorskip("hydra")

from audiovq.data.shards import write_corpus
from audiovq.errors import AudioVQError
from audiovq.speech.codec import SpeechCodec
from audiovq.training.batches import StepSampler
from audiovq.training.run import compose, make_task, train
from audiovq.training.speech_codec import SpeechCodecTask
from tests.training.runs import differences, state_of, step_of, unplugged_at


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
        "training.decay": 0.25,
        "training.warmup_steps": 300,
        "training.batch_size": 2,
        "task.crop_seconds": 0.4,
        "task.other_seconds": 0.5,
        "training.validation_items": 2,
        "training.validate_every": 4,
        "training.checkpoint_every": 4,
        "training.log_every": 2,
        "training.device": "cpu",
        "task.adversarial_start": 2,
        "task.adversarial_samples": 3200,
        "model.quantizer.init_after": 1,
        **changes,
    }
    return compose(
        ["experiment=tiny", f"data.corpora=[{{name: {corpus}}}]", f"run_dir={folder}"]
        + [f"{key}={value}" for key, value in settings.items()]
    )


FAST = {"training.warmup_steps": 5, "task.learning_rate": 3e-3, "task.average_decay": 0.9}


def test_a_resumed_run_equals_an_uninterrupted_one(corpus, tmp_path):
    """Through codebook start, discriminators, averaging and schedule; the stop falls between checkpoints."""
    train(overrides(corpus, tmp_path / "whole"))
    interrupted = overrides(corpus, tmp_path / "parts")
    with unplugged_at(SpeechCodecTask, 6):
        train(interrupted)
    assert step_of(tmp_path / "parts") == 4
    train(interrupted)
    assert step_of(tmp_path / "parts") == 8
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


def test_a_run_that_was_done_goes_on_to_more_steps(corpus, tmp_path):
    train(overrides(corpus, tmp_path))
    before = state_of(tmp_path)
    train(overrides(corpus, tmp_path, **{"training.max_steps": 14}))
    after = state_of(tmp_path)
    assert step_of(tmp_path) == 14
    assert any(not torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    assert json.loads((tmp_path / "latest" / "training.json").read_text())["step"] == 14  # beside every fourth
    train(overrides(corpus, tmp_path, **{"training.max_steps": 18}))  # and once more
    assert step_of(tmp_path) == 18


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
    taken = [list(islice(StepSampler(0, 3, rank, 2), 15)) for rank in range(2)]
    assert sorted(taken[0] + taken[1]) == list(range(30))
    assert list(islice(StepSampler(2, 3, 1, 2), 9)) == taken[1][6:]


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


def test_losses_that_weigh_nothing_are_left_out():
    task = make_task(compose(["experiment=tiny"]))
    torch.manual_seed(0)
    decoded, target = torch.randn(2, 1, 8000), torch.randn(2, 1, 8000)
    _, terms = task.reconstruction_loss(decoded, target)
    task.weights |= dict.fromkeys(("complex", "magnitude", "waveform", "envelope"), 0.0)
    loss, left = task.reconstruction_loss(decoded, target)
    assert set(left) == {"mel"}
    torch.testing.assert_close(left["mel"], terms["mel"])
    torch.testing.assert_close(loss, task.weights["mel"] * terms["mel"])
