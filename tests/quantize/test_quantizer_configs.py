"""The configurations of quantizers are arguments that the classes take."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("hydra")

from audiovq.quantize import VectorQuantizer
from audiovq.quantize.residual import SplitQuantizer
from audiovq.training.run import compose


def settings_of(model):
    from omegaconf import OmegaConf

    return OmegaConf.to_container(compose([f"model={model}", "name=test"]).model.quantizer)


def test_the_papers_codebook_learns_by_its_gradient():
    settings = settings_of("paper")
    assert (settings["codebook"], settings["beta"]) == ("gradient", 0.25)
    quantizer = VectorQuantizer(16, **settings)
    x = torch.randn(2, 16, 40)
    quantizer(x).loss.backward()
    assert quantizer.codebook.vectors.grad.abs().sum() > 0
    assert quantizer.encode(x).shape == (2, 1, 40)


def test_configuration_makes_a_split_quantizer():
    settings = settings_of("codec")
    quantizer = SplitQuantizer(8, 8, **{**settings, "codebook_size": 32})
    x = torch.randn(2, 16, 40)
    assert quantizer(x).latents.shape == x.shape
    assert quantizer.encode(x).shape == (2, settings["n_codebooks"], 40)
