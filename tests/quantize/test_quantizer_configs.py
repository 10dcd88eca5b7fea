"""The configurations of quantizers are arguments that the classes take."""

from pathlib import Path

import pytest
import torch

from audiovq.quantize import ResidualVectorQuantizer

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "quantizer").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_makes_a_quantizer(path):
    settings = pytest.importorskip("yaml").safe_load(path.read_text())
    quantizer = ResidualVectorQuantizer(16, n_codebooks=2, codebook_size=32, **settings)
    x = torch.randn(2, 16, 40)
    assert quantizer(x).latents.shape == x.shape
    assert quantizer.encode(x).shape == (2, 2, 40)


def test_there_are_configurations():
    assert {"ema", "factorised", "paper"} <= {path.stem for path in CONFIGS}
