"""Gradient estimators and the commitment distance."""

import torch

from audiovq.quantize.functional import rotation, squared_distance, straight_through


def test_straight_through_is_exact_and_its_gradient_the_identity():
    x = (1e3 * torch.randn(2, 5, 7)).requires_grad_()
    value, grad = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    y = straight_through(x, value)
    y.backward(grad)
    assert torch.equal(y, value)
    assert torch.equal(x.grad, grad)


def test_rotation_turns_and_scales_the_gradient():
    x = torch.randn(4, 6, 9, dtype=torch.float64, requires_grad=True)
    value, grad = torch.randn(4, 6, 9, dtype=torch.float64), torch.randn(4, 6, 9, dtype=torch.float64)
    y = rotation(x, value)
    y.backward(grad)
    assert torch.equal(y, value)
    ratio = value.norm(dim=1) / x.norm(dim=1)
    torch.testing.assert_close(x.grad.norm(dim=1), ratio * grad.norm(dim=1))
    # The gradient stands to x as it stood to the quantized value.
    torch.testing.assert_close((x.grad * x).sum(1) / x.norm(dim=1), ratio * (grad * value).sum(1) / value.norm(dim=1))


def test_rotation_of_zero_and_of_opposite_vectors_is_finite():
    x = torch.randn(1, 3, 4, requires_grad=True)
    value = -x.detach()
    value[..., 0] = 0
    rotation(x, value).sum().backward()
    assert x.grad.isfinite().all()
    assert torch.equal(x.grad[..., 0], torch.ones(1, 3))


def test_squared_distance_is_the_norm_over_channels_averaged_over_latents():
    x, y = torch.randn(3, 4, 5, requires_grad=True), torch.randn(3, 4, 5, requires_grad=True)
    distance = squared_distance(x, y)
    expected = (x - y).square().sum(1).mean()
    torch.testing.assert_close(distance, expected)
    for ours, theirs in zip(torch.autograd.grad(distance, (x, y)), torch.autograd.grad(expected, (x, y)), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert squared_distance(x[:0], y[:0]) == 0
