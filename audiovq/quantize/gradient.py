"""Gradients through the choice of a code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _Replace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, path: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(x, value)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, value = ctx.saved_tensors
        grad = grads[0]
        x_norm = x.norm(dim=1, keepdim=True)
        value_norm = value.norm(dim=1, keepdim=True)
        x_hat = x / x_norm.clamp(min=1e-12)
        value_hat = value / value_norm.clamp(min=1e-12)
        middle = F.normalize(x_hat + value_hat, dim=1)

        def dot(a: Tensor, b: Tensor) -> Tensor:
            return (a * b).sum(1, keepdim=True)

        # R = I - 2 r r' + 2 q e' turns e = x / |x| into q = value / |value|; its transpose carries the gradient back.
        turned = grad - 2 * middle * dot(middle, grad) + 2 * x_hat * dot(value_hat, grad)
        # A zero vector has no direction to turn: there the gradient goes straight through.
        defined = (x_norm > 1e-12) & (value_norm > 1e-12)
        return torch.where(defined, turned * (value_norm / x_norm.clamp(min=1e-12)), grad), None


class _SquaredDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        total = x.new_zeros((), dtype=torch.float64)
        # In pieces of a megabyte: mse_loss makes a tensor of the size of its input on the way.
        both = (x.view(-1), y.view(-1)) if x.is_contiguous() and y.is_contiguous() else (x, y)
        rows = max(1, 2**18 * len(both[0]) // max(x.numel(), 1))
        for a, b in zip(both[0].split(rows), both[1].split(rows), strict=True):
            total += F.mse_loss(a, b, reduction="sum")
        return total.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        to_x = torch.sub(x, y).mul_(2 * grads[0])
        to_y = -to_x if ctx.needs_input_grad[1] else None
        return to_x if ctx.needs_input_grad[0] else None, to_y


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """``||x - y||^2`` over dimension 1, averaged over all latents; 0 for none. Takes no memory of the size of ``x``."""
    return _SquaredDistance.apply(x, y) / max(x.numel() // x.shape[1], 1)


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """Exactly ``value``, with the gradient handed to ``x`` unchanged (van den Oord et al. 2017, section 3.2).

    Unlike ``x + (value - x).detach()`` this does not round.
    """
    return _Replace.apply(x, value.detach())


def rotation(x: Tensor, value: Tensor) -> Tensor:
    """Exactly ``value``, with the gradient turned and scaled as quantization does ``x`` (Fifty et al. 2024, section 4).

    Vectors lie along dimension 1. The gradient keeps its angle to the vector and is scaled by ``|value| / |x|``.
    """
    return _Rotate.apply(x, value.detach())


GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"straight_through": straight_through, "rotation": rotation}
