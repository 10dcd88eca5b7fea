"""The WaveNet stack: causal, the same whole and in pieces, and the network its description says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from audiovq.nn.sequence import WaveNetStack


def stack(kernel_size=2):
    torch.manual_seed(0)
    return WaveNetStack(3, 12, 10, 7, n_layers=6, dilation_cycle=3, kernel_size=kernel_size, condition_channels=5)


@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_an_output_depends_on_its_receptive_field_and_nothing_else(kernel_size):
    net = stack(kernel_size)
    x = torch.randn(1, 3, 60, requires_grad=True)
    net(x, torch.randn(1, 5, 15))[0, :, 47].sum().backward()
    touched = (x.grad[0].abs().sum(0) > 0).nonzero()[:, 0]
    assert touched[-1] == 47
    assert touched[0] == 47 - net.receptive_field + 1


def test_a_condition_acts_on_the_steps_for_which_it_is_held():
    net = stack()
    condition = torch.randn(1, 5, 15, requires_grad=True)
    out = net(torch.randn(1, 3, 60), condition)
    out[0, :, 20].sum().backward()  # step 20 is the first of position 5
    touched = (condition.grad[0].abs().sum(0) > 0).nonzero()[:, 0]
    assert touched[-1] == 5
    with pytest.raises(ValueError, match="multiple"):
        net(torch.randn(1, 3, 61), condition)


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_pieces_give_the_whole(kernel_size):
    net = stack(kernel_size)
    x, condition = torch.randn(2, 3, 60), torch.randn(2, 5, 15)
    whole = net(x, condition)
    projected = net.project_condition(condition)
    for size in (1, 4, 20):
        state, pieces = net.initial_state(2), []
        for start in range(0, 60, size):
            positions = projected[:, :, start // 4 : max((start + size) // 4, start // 4 + 1)]
            pieces.append(net.advance(x[:, :, start : start + size], positions, state))
        torch.testing.assert_close(torch.cat(pieces, dim=2), whole, atol=1e-5, rtol=1e-5)


def test_it_is_the_network_of_its_description():
    net = stack()
    x, condition = torch.randn(2, 3, 60), torch.randn(2, 5, 15)
    gates = net.condition(condition).repeat_interleave(4, dim=2).view(2, 6, 24, 60)
    y, skips = net.entry(x), 0
    for layer, dilation in enumerate([1, 2, 4, 1, 2, 4]):
        a, b = (net.dilated[layer](F.pad(y, (dilation, 0))) + gates[:, layer]).chunk(2, dim=1)
        h = torch.tanh(a) * torch.sigmoid(b)
        skips = skips + net.skip[layer](h)
        if layer < 5:
            y = y + net.residual[layer](h)
    expected = net.project(F.relu(net.mix(F.relu(skips))))
    torch.testing.assert_close(net(x, condition), expected, atol=1e-5, rtol=1e-5)


def test_it_counts_its_multiplications():
    net = stack()
    weights = [m.weight.numel() for name, m in net.named_modules() if hasattr(m, "weight") and name != "condition"]
    assert net.macs_per_step == sum(weights)
