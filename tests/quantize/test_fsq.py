"""Finite scalar quantization: a grid with exactly the promised points."""

import itertools

import pytest
import torch

from audiovq.quantize import FiniteScalarQuantizer, QuantizerError


@pytest.mark.parametrize("levels", [(2,), (3,), (16,), (8, 5, 5, 5), (4, 3, 2)])
def test_every_code_comes_back(levels):
    quantizer = FiniteScalarQuantizer(levels)
    codes = torch.arange(quantizer.codebook_size)[None, None]
    points = quantizer.decode(codes)
    assert points.abs().max() <= 1
    assert len(points[0].unique(dim=1)[0]) == quantizer.codebook_size
    for dimension, count in enumerate(levels):
        values = points[0, dimension].unique()
        assert len(values) == count
        torch.testing.assert_close(values.diff(), values.diff()[:1].expand(count - 1))
    # Latents whose bounded value is the point itself are given that point's code.
    reach = (points * quantizer.width + quantizer.offset) / quantizer.reach
    assert torch.equal(quantizer.encode(torch.atanh(reach) - quantizer.shift), codes)


@pytest.mark.parametrize(("channels", "dims"), itertools.product([None, 24], [(), (30,), (4, 5)]))
def test_contract(channels, dims):
    quantizer = FiniteScalarQuantizer((8, 5, 5, 5), channels)
    x = (3 * torch.randn(6, channels or 4, *dims)).requires_grad_()
    for training in (True, False):
        quantizer.train(training)
        quantized = quantizer(x)
        assert quantized.latents.shape == x.shape
        assert quantized.codes.shape == (6, 1, *dims)
        assert quantized.loss == 0
        assert torch.equal(quantizer.decode(quantized.codes), quantized.latents)
        assert torch.equal(quantizer.encode(x), quantized.codes)
        assert torch.equal(torch.cat([quantizer.encode(item[None]) for item in x]), quantized.codes)
        assert torch.equal(torch.cat([quantizer.decode(code[None]) for code in quantized.codes]), quantized.latents)
        assert {"perplexity", "usage", "usage_window", "restarts"} <= quantized.metrics.keys()


def test_gradient_is_that_of_the_bounded_value():
    quantizer = FiniteScalarQuantizer((8, 5))
    x, grad = torch.randn(3, 2, 20, requires_grad=True), torch.randn(3, 2, 20)
    quantizer(x).latents.backward(grad)
    plain = x.detach().clone().requires_grad_()
    (torch.tanh(plain + quantizer.shift) * quantizer.reach / quantizer.width).backward(grad)
    torch.testing.assert_close(x.grad, plain.grad)


def test_half_precision_stays_outside():
    quantizer = FiniteScalarQuantizer((8, 5, 5, 5), 24)
    x = (1e4 * torch.randn(2, 24, 30)).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        quantized = quantizer(x)
    quantized.latents.sum().backward()
    assert quantized.latents.dtype == torch.float32
    assert quantized.latents.isfinite().all()
    assert x.grad.isfinite().all()


def test_usage_is_remembered():
    quantizer = FiniteScalarQuantizer((4, 4))
    first = quantizer(torch.full((1, 2, 10), 9.0)).metrics
    second = quantizer(torch.full((1, 2, 10), -9.0)).metrics
    assert first["usage"] == second["usage"] == 1 / 16
    assert second["usage_window"] == 2 / 16
    assert second["perplexity"] == 1


def test_one_clear_error_for_what_does_not_fit():
    for levels in ((), (1, 5)):
        with pytest.raises(QuantizerError):
            FiniteScalarQuantizer(levels)
    with pytest.raises(QuantizerError):
        FiniteScalarQuantizer((4, 4)).decode(torch.full((1, 1, 2), 16))
