"""Output distributions: proper, exact in float32, sampled as they say."""

from __future__ import annotations

import pytest
import torch

from audiovq.nn.distributions import LogisticMixture, MuLawCategorical, compand, expand, sample_categorical


def extreme_parameters(n_mixtures):
    """Broad and narrow components, within and beyond the range: (4, 3 * n_mixtures)."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(4, n_mixtures)
    locations = torch.tensor([[0.0], [0.9999], [-1.2], [0.31]]) + 0.1 * torch.randn(4, n_mixtures)
    log_scales = torch.tensor([[-9.0], [-3.0], [-6.0], [-30.0]]) + torch.randn(4, n_mixtures)
    return torch.cat([logits, locations, log_scales], dim=1)


@pytest.mark.parametrize("bits", [8, 16])
def test_all_levels_of_a_mixture_add_up_to_one(bits):
    mixture = LogisticMixture(3, bits)
    levels = mixture.on_grid(torch.linspace(-1, 1, 2**bits))
    assert len(levels.unique()) == 2**bits
    parameters = extreme_parameters(3)
    shift = torch.tensor([0.1, -0.2, 0.0, 0.4])
    unit = torch.tensor([0.5, 1e-3, 2.0, 1e-4])
    wide = (shift[:, None].expand(-1, 2**bits), unit[:, None].expand(-1, 2**bits))
    for known in ({}, {"shift": wide[0]}, {"shift": wide[0], "unit": wide[1]}):
        nll = mixture.nll(parameters.unsqueeze(-1).expand(-1, -1, 2**bits), levels.expand(4, -1), **known)
        torch.testing.assert_close((-nll).double().exp().sum(-1), torch.ones(4).double(), atol=1e-4, rtol=0)


def test_all_levels_of_mu_law_add_up_to_one():
    output = MuLawCategorical()
    levels = output.value(torch.arange(256))
    assert torch.equal(output.level(levels), torch.arange(256))
    torch.manual_seed(0)
    parameters = 5 * torch.randn(4, 256, 1).expand(-1, -1, 256)
    nll = output.nll(parameters, levels.expand(4, -1))
    torch.testing.assert_close((-nll).exp().sum(-1), torch.ones(4))


def test_mixture_agrees_with_double_precision_and_has_finite_gradients():
    mixture = LogisticMixture(2, 16)
    parameters = torch.tensor([[0.3, -0.2, 0.2, -0.4, -5.0, -2.0], [0.0, 9.0, 0.5, -0.9, -11.0, -12.0]])
    parameters.requires_grad_(True)
    target = mixture.on_grid(torch.tensor([0.21, 1.0]))
    nll = mixture.nll(parameters, target)
    logits, locations, log_scales = parameters.detach().double().chunk(3, dim=1)
    edge = torch.tensor([False, True])
    centred, inverse = target.double()[:, None] - locations, torch.exp(-log_scales)
    upper = torch.where(edge[:, None], 1.0, torch.sigmoid((centred + mixture.bin / 2) * inverse))
    mass = upper - torch.sigmoid((centred - mixture.bin / 2) * inverse)
    expected = -torch.log((torch.softmax(logits, 1) * mass).sum(1))
    torch.testing.assert_close(nll[0].double(), expected[0], atol=1e-4, rtol=0)
    assert torch.isfinite(nll).all()  # double precision itself says infinity of the second
    nll.sum().backward()
    assert torch.isfinite(parameters.grad).all()
    assert parameters.grad.abs().max() > 0


def test_half_precision_outside_does_not_reach_the_likelihood():
    mixture, parameters = LogisticMixture(3, 16), extreme_parameters(3)
    target = torch.tensor([0.1, 0.2, -0.3, 0.31])
    plain = mixture.nll(parameters, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mixture.nll(parameters, target), plain)


def test_samples_follow_the_distribution():
    mixture = LogisticMixture(2, 8)
    parameters = torch.tensor([0.4, -0.6, -0.3, 0.4, -3.0, -2.5])
    n = 200_000
    uniform = torch.rand(n, 2, generator=torch.Generator().manual_seed(0))
    drawn = mixture.sample(parameters.expand(n, -1), uniform)
    levels = torch.round((drawn + 1) / mixture.bin).long()
    share = torch.bincount(levels, minlength=256) / n
    grid = mixture.on_grid(torch.linspace(-1, 1, 256))
    expected = torch.exp(-mixture.nll(parameters[:, None].expand(-1, 256)[None], grid[None]))[0]
    assert (share - expected).abs().sum() < 0.03
    moved = mixture.sample(parameters.expand(n, -1), uniform, shift=torch.full((n,), 2 * mixture.bin))
    inside = (drawn.abs() < 0.9) & (moved.abs() < 0.9)
    halved = mixture.sample(parameters.expand(n, -1), uniform, unit=torch.full((n,), 0.5))
    assert (halved - 0.5 * drawn)[inside].abs().max() < 1.01 * mixture.bin
    torch.testing.assert_close(moved[inside], drawn[inside] + 2 * mixture.bin)


def test_categorical_samples_follow_the_distribution():
    output = MuLawCategorical(bits=3)
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, 0.0, -2.0, 1.0])
    n = 100_000
    uniform = torch.rand(n, 1, generator=torch.Generator().manual_seed(0))
    levels = output.level(output.sample(logits.expand(n, -1), uniform))
    assert (torch.bincount(levels, minlength=8) / n - torch.softmax(logits, 0)).abs().max() < 0.01


def test_sample_categorical_at_the_borders():
    probabilities = torch.tensor([[0.0, 0.5, 0.5, 0.0]])
    drawn = [int(sample_categorical(probabilities, torch.tensor([u]))) for u in (0.0, 0.49, 0.5, 0.9999999)]
    assert drawn == [1, 1, 2, 2]


def test_companding_is_undone():
    x = torch.linspace(-1, 1, 101)
    torch.testing.assert_close(expand(compand(x)), x)
    assert torch.equal(compand(-x), -compand(x))
