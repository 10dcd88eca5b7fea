"""Priors and the second stage over an image codec's codes: they train, are exported and draw pictures."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("hydra")

from PIL import Image

from audiovq.errors import AudioVQError
from audiovq.prior.image import ImagePrior, SecondStage, prior_folder
from audiovq.training.run import compose, train
from tests.image.conftest import TWO, started

RUN = {
    "training.max_steps": 4,
    "training.decay": 0.25,
    "training.batch_size": 4,
    "training.validation_items": 4,
    "training.validate_every": 2,
    "training.checkpoint_every": 2,
    "training.log_every": 2,
    "training.device": "cpu",
}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    for i in range(60):
        (folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / str(i % 2) / f"{i}.png")
    return folder


def run(experiment, root, folder, **changes):
    settings = {"task.pictures": f"{{name: images, root: {root}}}", "task.size": 16, **RUN, **changes}
    return train(compose([f"experiment={experiment}", f"run_dir={folder}"] + [f"{k}={v}" for k, v in settings.items()]))


def test_priors_of_both_levels_draw_pictures(root, tmp_path):
    started(TWO).save(tmp_path / "model")
    small = {"task.codec": tmp_path / "model", "prior.channels": 8, "prior.n_layers": 3}
    top = run("image_prior", root, tmp_path / "top", **{**small, "prior.n_classes": 2, "prior.attention_every": 3})
    bottom = run("image_prior", root, tmp_path / "bottom", **{**small, "task.level": 1})
    told = json.loads((bottom / "best" / "training.json").read_text())["validation"]
    assert told["bits_per_picture"] == pytest.approx(told["nats"] * 32 / np.log(2), rel=1e-3)
    for level, folder in enumerate((top, bottom)):
        shutil.copytree(folder / "best", prior_folder(tmp_path / "model", level))
    prior = ImagePrior.from_pretrained(tmp_path / "model")
    steps: list[tuple[int, int]] = []
    drawn = prior.sample(2, label=1, seed=3, progress=lambda *done: steps.append(done))
    assert steps == [(2, 20), (4, 20), (8, 20), (12, 20), (16, 20), (20, 20)]
    assert [tuple(c.shape) for c in drawn.codes] == [(2, 1, 2, 2), (2, 2, 4, 4)]
    assert prior.codec.decode(drawn).shape == (2, 3, 16, 16)
    with pytest.raises(AudioVQError, match="2 classes"):
        prior.sample(1, label=2)
    started(TWO, likelihood="logistic").save(tmp_path / "other", torch.float32)
    for level in (0, 1):
        shutil.copytree(prior_folder(tmp_path / "model", level), prior_folder(tmp_path / "other", level))
    with pytest.raises(AudioVQError, match="another model"):
        ImagePrior.from_pretrained(tmp_path / "other")


@pytest.mark.parametrize("kind", ["vq", "vae"])
def test_the_second_stage_trains(kind, root, tmp_path):
    started([{"stride": 4, "latent_dim": 6, "quantizer": {"codebook_size": 16}}]).save(tmp_path / "model")
    small = {"task.model.decoder": "{channels: 8, n_layers: 2}", "task.model.n_entries": 8}
    small |= {"task.model.quantizer": "{init_after: 1, init_batches: 2}", "task.model.kind": kind}
    folder = run("image_second_stage", root, tmp_path / "run", **{"task.codec": tmp_path / "model", **small})
    told = json.loads((folder / "best" / "training.json").read_text())["validation"]
    assert set(told) >= {"loss", "code_bits", "latent_bits", "told_bits"}
    assert SecondStage.from_pretrained(folder / "best").kind == kind
