"""Weights on disk: what comes back is what was there, to the precision that was asked for."""

import pytest
import torch
from torch import nn

from audiovq.hub import load_weights, save_weights


class Small(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = {"width": width}
        self.conv = nn.Conv2d(3, width, 3)
        self.linear = nn.Linear(width, 5)
        self.register_buffer("table", torch.randn(7, width))
        self.register_buffer("count", torch.tensor([3]))


@pytest.fixture
def model() -> Small:
    torch.manual_seed(0)
    small = Small(4)
    with torch.no_grad():
        small.conv.weight[2] *= 100  # a large row does not coarsen the others
    return small


def test_8_bits_are_as_near_as_8_bits_can_be(model, tmp_path):
    save_weights(model, tmp_path, torch.int8)
    again = load_weights(Small, tmp_path)
    for name, weight in model.named_parameters():
        found = again.get_parameter(name)
        assert found.dtype == torch.float32
        if weight.dim() == 1:
            torch.testing.assert_close(found, weight, rtol=1e-3, atol=1e-6)
            continue
        step = weight.flatten(1).abs().amax(1) / 127
        error = (found - weight).flatten(1).abs().amax(1)
        assert (error <= 0.57 * step).all()  # half a step, and what scales lose in float16
        assert (error > 0).any()


def test_buffers_are_not_rounded_to_8_bits(model, tmp_path):
    save_weights(model, tmp_path, torch.int8)
    again = load_weights(Small, tmp_path)
    assert torch.equal(again.table, model.table.half().float())
    assert torch.equal(again.count, model.count)


def test_saving_what_was_loaded_changes_nothing(model, tmp_path):
    save_weights(model, tmp_path / "a", torch.int8)
    once = load_weights(Small, tmp_path / "a")
    save_weights(once, tmp_path / "b", torch.int8)
    twice = load_weights(Small, tmp_path / "b")
    for name, tensor in once.state_dict().items():
        torch.testing.assert_close(twice.state_dict()[name], tensor, rtol=1e-3, atol=1e-7)
