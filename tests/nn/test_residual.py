from __future__ import annotations

import pytest
import torch

from audiovq.nn import ChannelNorm, DilatedResidualUnit


def test_channel_norm_gives_unit_power_at_each_position():
    x = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.01, 1, 10, 100, 1000.0])
    power = ChannelNorm(8, eps=1e-12)(x).square().mean(1)
    torch.testing.assert_close(power, torch.ones(2, 5), atol=1e-3, rtol=1e-3)


def test_unit_sees_exactly_its_receptive_field():
    torch.manual_seed(0)
    unit = DilatedResidualUnit(4, dilation=3)
    x = torch.randn(1, 4, 21, requires_grad=True)
    unit(x)[0, :, 10].sum().backward()
    touched = x.grad[0].abs().sum(0).nonzero()[:, 0].tolist()
    assert touched == [7, 10, 13]


def test_condition_is_required_where_it_is_expected_and_does_nothing_at_the_start():
    torch.manual_seed(0)
    unit = DilatedResidualUnit(4, condition_dim=3)
    x = torch.randn(1, 4, 9)
    with pytest.raises(ValueError, match="condition"):
        unit(x)
    assert torch.equal(unit(x, torch.randn(1, 3)), unit(x, torch.randn(1, 3)))
    torch.nn.init.normal_(unit.film.weight)
    assert not torch.equal(unit(x, torch.randn(1, 3)), unit(x, torch.randn(1, 3)))
