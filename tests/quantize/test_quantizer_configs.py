"""The configurations of quantizers are arguments that the classes take."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("hydra")

from audiovq.quantize import ResidualVectorQuantizer
from audiovq.quantize.split import SplitQuantizer
from audiovq.training.run import compose


def settings_of(model):
    from omegaconf import OmegaConf

    return OmegaConf.to_container(compose([f"model={model}", "name=test"]).model.quantizer)


@pytest.mark.parametrize("model", ["paper", "speech"])
def test_configuration_makes_a_quantizer(model):
    settings = settings_of(model)
    quantizer = ResidualVectorQuantizer(16, **{**settings, "codebook_size": 32})
    x = torch.randn(2, 16, 40)
    assert quantizer(x).latents.shape == x.shape
    assert quantizer.encode(x).shape == (2, settings["n_codebooks"], 40)


def test_the_papers_codebook_learns_by_its_gradient():
    settings = settings_of("paper")
    assert (settings["codebook"], settings["beta"], settings["n_codebooks"]) == ("gradient", 0.25, 1)
    quantizer = ResidualVectorQuantizer(16, **settings)
    quantizer(torch.randn(2, 16, 40)).loss.backward()
    assert quantizer.levels[0].codebook.vectors.grad.abs().sum() > 0


def test_configuration_makes_a_split_quantizer():
    settings = settings_of("codec")
    quantizer = SplitQuantizer(8, 8, **{**settings, "codebook_size": 32})
    x = torch.randn(2, 16, 40)
    assert quantizer(x).latents.shape == x.shape
    assert quantizer.encode(x).shape == (2, settings["n_codebooks"], 40)
