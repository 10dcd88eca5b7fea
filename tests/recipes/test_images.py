"""The runs of recipes/images: their settings are configurations of models that exist."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("hydra")

from audiovq.errors import AudioVQError
from audiovq.training.visual import make_image_model

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes" / "images"))
from common import RUNS, settings_of

ON_PAPERS_DATA = ("image_cifar10", "image_imagenet128")


@pytest.mark.parametrize("name", RUNS)
def test_settings_make_a_model(name):
    from omegaconf import OmegaConf

    overrides = ["data.root=DIR"] if name in ON_PAPERS_DATA else []
    config = settings_of(name, overrides)
    assert config.name == name
    if config.task._target_.endswith("ImageTask"):
        model = make_image_model({**OmegaConf.to_container(config.image), "channels": 4, "residual": 4})
        assert model.config["name"] == name
    else:
        assert config.task.codec in RUNS


def test_the_papers_data_are_asked_for():
    with pytest.raises(AudioVQError, match=r"data\.root"):
        settings_of("image_cifar10")
