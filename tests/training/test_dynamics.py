"""Training of the dynamics: it learns, resumes exactly, and its export is read back; the twin never sees actions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("hydra")

from audiovq.data.episodes import CodeWindows, Episode, coded_episodes, split_of_episode, write_episodes
from audiovq.errors import AudioVQError
from audiovq.image import ImageCodec
from audiovq.training.run import compose, train
from audiovq.training.visual import DynamicsTask
from audiovq.video import ClipCodec, VideoModel
from tests.training.runs import differences, step_of, unplugged_at


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A striped wall that moves one way or the other as the first two buttons say, and a codec for it."""
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    wall = np.repeat(random.integers(0, 256, (1, 64, 3), dtype=np.uint8), 8, 0).repeat(4, 1)

    def episode(i: int) -> Episode:
        actions = np.zeros((20, 5), np.uint8)
        actions[:, i % 2] = 1
        places = 100 + (4 if i % 2 else -4) * np.arange(20)
        frames = np.stack([wall[:, x : x + 16].repeat(2, 0) for x in places])
        return Episode(f"e{i}", "wall", split_of_episode(i), frames, actions)

    write_episodes(tmp_path / "cache" / "data" / "vizdoom", [episode(i) for i in range(10)])
    torch.manual_seed(0)
    level = {"stride": 4, "latent_dim": 8, "quantizer": {"codebook_size": 16}}
    ImageCodec([level], channels=16, residual=8, n_residual=1).eval().save(tmp_path / "model" / "frames")
    return tmp_path


def config(world, folder, **changes):
    settings = {
        "training.max_steps": 6,
        "training.decay": 0.33,
        "training.batch_size": 2,
        "training.validation_items": 4,
        "training.validate_every": 3,
        "training.checkpoint_every": 3,
        "training.log_every": 2,
        "training.device": "cpu",
        "training.precision": "float32",
        "task.frames": world / "model" / "frames",
        "task.n_unrolled": 2,
        "task.dynamics": "{stem: 8, fine: 16, coarse: 16, n_fine: 1, n_coarse: 1, condition: 8}",
        "training.warmup_steps": 1,
        **changes,
    }
    return compose(["experiment=video_dynamics", f"run_dir={folder}"] + [f"{k}={v}" for k, v in settings.items()])


def test_a_resumed_run_equals_an_uninterrupted_one(world):
    train(config(world, world / "whole"))
    with unplugged_at(DynamicsTask, 5):
        train(config(world, world / "parts"))
    assert step_of(world / "parts") == 3
    train(config(world, world / "parts"))
    assert step_of(world / "parts") == 6
    assert differences(world / "whole", world / "parts") == []


def test_it_learns_and_is_read_back(world):
    steps = 40
    every = {f"training.{name}": steps for name in ("validate_every", "checkpoint_every", "max_steps")}
    train(config(world, world / "short", **{"training.max_steps": 1, "training.validate_every": 1}))
    train(config(world, world / "long", **every))
    before, after = (
        json.loads((world / name / "latest" / "training.json").read_text())["validation"]["loss"]
        for name in ("short", "long")
    )
    assert after < before - 0.3
    (world / "long" / "best").rename(world / "model" / "dynamics")
    model = VideoModel.from_pretrained(world / "model")
    assert model.dynamics.codec == model.frames.model_hash.hex()


def test_the_twin_is_blind(world):
    train(config(world, world / "blind", **{"task.blind": True}))
    (world / "blind" / "best").rename(world / "model" / "blind")
    (world / "model" / "dynamics").mkdir()
    for name in ("config.json", "model.safetensors"):
        (world / "model" / "dynamics" / name).write_bytes((world / "model" / "blind" / name).read_bytes())
    model = VideoModel.from_pretrained(world / "model", "blind")
    assert model.dynamics.n_actions == 0


def test_windows_stay_inside_their_episodes(world):
    from audiovq.data.episodes import open_episodes

    codec = ImageCodec.from_pretrained(world / "model" / "frames")
    episodes = open_episodes("vizdoom", "train")
    coded = coded_episodes(codec, episodes)
    again = coded_episodes(codec, episodes)
    for first, second in zip(coded, again, strict=True):
        np.testing.assert_array_equal(first.codes, second.codes)
    windows = CodeWindows(coded, 17, n_items=1000)
    assert len(windows) == 8 * 4
    for item in (windows[i] for i in range(len(windows))):
        assert item["codes"].shape == (1, 17, 4, 4)
        assert item["actions"].shape == (16, 5)
        held = item["actions"][:, :2].sum(0)
        assert sorted(held.tolist()) == [0, 16]  # one button through a whole episode
    with pytest.raises(AudioVQError, match="no episode has 30 frames"):
        CodeWindows(coded, 30)


def test_the_clip_codec_learns_and_is_read_back(world):
    settings = {
        "task.model.channels": 16,
        "task.model.residual": 8,
        "task.n_frames": 8,
        "task.size": 16,
        "training.warmup_steps": 1,
        "training.batch_size": 2,
        "training.validation_items": 2,
        "training.max_steps": 40,
        "training.decay": 0.25,
        "training.validate_every": 20,
        "training.device": "cpu",
        "training.precision": "float32",
        "run_dir": world / "clips",
    }
    train(compose(["experiment=video_clips"] + [f"{k}={v}" for k, v in settings.items()]))
    found = json.loads((world / "clips" / "latest" / "training.json").read_text())["validation"]
    assert found["psnr"] > 11.0, found  # grey alone gives 10.8
    codec = ClipCodec.from_pretrained(world / "clips" / "best")
    assert codec.encode(torch.rand(1, 3, 8, 16, 16)).codes.shape == (1, 1, 4, 4, 4)
