"""Training on too few, equal or zero vectors: every number stays finite and usage is reported."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from audiovq.quantize import ProductQuantizer, ResidualVectorQuantizer, VectorQuantizer

SIZE = 1024
SETTINGS = [
    {"codebook": "ema"},
    {"codebook": "ema", "normalised": True},
    {"codebook": "gradient"},
    {"codebook": "gradient", "normalised": True, "gradient": "rotation"},
    {"codebook_dim": 3, "normalised": True},
    {"codebook": "ema", "rate": 0.01},
]
DATA = {
    "10 vectors": torch.randn(1, 6, 10, generator=torch.Generator().manual_seed(1)),
    "1000 equal vectors": torch.tensor([0.5, -1.0, 2.0, 0.0, 3.0, -0.25])[None, :, None].expand(1, 6, 1000),
    "zeros": torch.zeros(2, 6, 50),
}


def train(quantizer: Any, x: Tensor, steps: int = 3) -> Any:
    """Some training steps on the same batch; checks after each of them that all numbers are finite."""
    parameters = list(quantizer.parameters())
    optimizer = torch.optim.SGD(parameters, 0.1) if parameters else None
    quantized = None
    for _ in range(steps):
        latents = x.clone().requires_grad_()
        quantized = quantizer(latents)
        (quantized.latents.square().sum() + quantized.loss).backward()
        tensors = [quantized.latents, quantized.loss, latents.grad, *quantized.metrics.values()]
        tensors += [*quantizer.state_dict().values(), *(p.grad for p in parameters)]
        assert all(tensor.isfinite().all() for tensor in tensors)
        assert (quantized.codes >= 0).all()
        assert 0 < quantized.metrics["usage"] <= quantized.metrics["usage_window"] <= 1
        if optimizer:
            optimizer.step()
            optimizer.zero_grad()
    return quantized


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("kind", [VectorQuantizer, ResidualVectorQuantizer, ProductQuantizer])
def test_three_steps_stay_finite(kind, data, settings):
    n_levels = {} if kind is VectorQuantizer else {"n_codebooks": 2}
    quantizer = kind(6, codebook_size=SIZE, **n_levels, **settings)
    train(quantizer, DATA[data])
    quantizer.eval()
    codes = quantizer.encode(DATA[data])
    assert quantizer.decode(codes).isfinite().all()
    assert torch.equal(quantizer(DATA[data]).latents, quantizer.decode(codes))


def test_fewer_vectors_than_codes_are_all_kept():
    quantizer = VectorQuantizer(6, SIZE)
    x = DATA["10 vectors"]
    quantized = train(quantizer, x)
    torch.testing.assert_close(quantized.latents, x, rtol=1e-3, atol=1e-3)
    assert quantized.metrics["usage"] == 10 / SIZE


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_equal_vectors_share_one_code_that_stays_where_they_are(codebook):
    quantizer = VectorQuantizer(6, SIZE, codebook=codebook)
    x = DATA["1000 equal vectors"]
    quantized = train(quantizer, x)
    torch.testing.assert_close(quantized.latents, x, rtol=1e-3, atol=1e-3)
    assert quantized.metrics["usage"] == 1 / SIZE
    assert quantized.metrics["perplexity"] == 1
