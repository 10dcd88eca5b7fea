"""Training image autoencoders: exact resume, learning, export."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("hydra")

from PIL import Image

from audiovq.image import ImageCodec
from audiovq.training.run import compose, train
from audiovq.training.visual import ImageTask
from tests.training.runs import differences, step_of, unplugged_at


@pytest.fixture
def root(tmp_path):
    """Pictures of soft discs."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48] / 48
    for i in range(80):
        cx, cy, r = rng.random(3)
        disc = 1 / (1 + np.exp(20 * (np.hypot(x - cx, y - cy) - 0.3 * r - 0.1)))
        pixels = disc[..., None] * rng.random(3) + (1 - disc[..., None]) * rng.random(3)
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def config(root, folder, kind="codec", **changes):
    settings = {
        "task.pictures": f"{{name: images, root: {root}}}",
        "training.max_steps": 6,
        "training.decay": 0.33,
        "training.batch_size": 4,
        "task.size": 32,
        "training.validation_items": 4,
        "training.validate_every": 3,
        "training.checkpoint_every": 3,
        "training.log_every": 2,
        "training.device": "cpu",
        "image.channels": 16,
        "image.residual": 8,
        "image.n_residual": 1,
        "image.levels.0.latent_dim": 16,
        "image.levels.0.quantizer.codebook_size": 16,
        "image.levels.0.quantizer.init_after": 1,
        "image.levels.0.quantizer.init_batches": 2,
        **changes,
    }
    return compose(
        ["experiment=image", "image=fields32", f"+image.kind={kind}", f"run_dir={folder}"]
        + [f"{k}={v}" for k, v in settings.items()]
    )


@pytest.mark.parametrize("kind", ["codec", "gumbel"])
def test_a_resumed_run_equals_an_uninterrupted_one(kind, root, tmp_path):
    train(config(root, tmp_path / "whole", kind))
    with unplugged_at(ImageTask, 5):
        train(config(root, tmp_path / "parts", kind))
    train(config(root, tmp_path / "parts", kind))
    assert step_of(tmp_path / "parts") == 6
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


def test_training_learns_and_exports_a_codec(root, tmp_path):
    changes = {
        "training.max_steps": 100,
        "training.validate_every": 25,
        "training.validation_items": 32,
        "task.average_decay": 0.9,
    }
    folder = train(
        config(root, tmp_path / "run", **changes, **{"training.warmup_steps": 5, "task.learning_rate": 5e-3})
    )
    told = json.loads((folder / "best" / "training.json").read_text())
    assert told["step"] > 25  # later validations are better than the first
    assert set(told["validation"]) >= {"loss", "bits_per_dim", "latent_bits", "psnr", "perplexity/0"}
    codec = ImageCodec.from_pretrained(folder / "best")
    images = torch.rand(1, 3, 20, 50)
    assert codec.decode(codec.encode(images)).shape == images.shape
