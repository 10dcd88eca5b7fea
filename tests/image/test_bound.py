"""Bits per dimension are those of distributions that add up to one."""

from __future__ import annotations

import math

import pytest
import torch

from audiovq.image.nets import DiscretizedLogistic, Gaussian, ImageBaseline
from tests.image.conftest import ONE, smooth_images, started


@pytest.mark.parametrize("kind", [DiscretizedLogistic, Gaussian])
def test_probabilities_of_all_levels_add_up_to_one(kind):
    likelihood = kind().eval()
    parameters = torch.randn(2, 3 * kind.n_parameters, 4, 4, generator=torch.Generator().manual_seed(0))
    values = torch.linspace(-1, 1, 256)
    total = sum(torch.exp(-likelihood.nll(parameters, torch.full((2, 3, 4, 4), float(v)))) for v in values)
    torch.testing.assert_close(total, torch.ones(2, 3, 4, 4), atol=1e-4, rtol=0)


def test_codes_cost_their_logarithm():
    codec = started(ONE, likelihood="logistic")
    images = smooth_images(3, 32, 32)
    bound = codec.bound(images)
    assert bound.latents.tolist() == pytest.approx([2 * 64 * math.log(16)] * 3)
    parameters, _ = codec(images)
    assert torch.equal(bound.pixels, codec.nll(parameters, images).flatten(1).sum(1))
    nats = bound.pixels + bound.latents
    torch.testing.assert_close(bound.bits_per_dim(), nats / (3 * 32 * 32 * math.log(2)))


@pytest.mark.parametrize("kind", ["vae", "gumbel"])
def test_baselines_learn_and_keep_their_bound(kind):
    torch.manual_seed(0)
    model = ImageBaseline(kind, ONE[0], channels=16, residual=8, n_residual=1)
    images = (smooth_images(4, 32, 32) * 255).round() / 255
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    values = []
    for _ in range(60):
        bound = model.bound(images)
        assert bool((bound.latents >= -1e-4).all())
        optimizer.zero_grad()
        bound.bits_per_dim().mean().backward()
        optimizer.step()
        values.append(bound.bits_per_dim().mean().item())
    assert values[-1] < 0.96 * values[0]
    assert all(p.grad is not None for p in model.parameters())
    if kind == "gumbel":  # evaluated are categories, not mixtures of them
        model.eval()
        z, _ = model.latents(model.encoder(2 * images - 1))
        rows = z.unflatten(1, (2, -1)).movedim(2, -1).flatten(0, -2)
        assert float((rows[:, None] - model.latents.table).abs().sum(-1).amin(1).max()) < 1e-5
        assert float(model.bound(images).latents.max()) <= 2 * 64 * math.log(16) + 1e-3
