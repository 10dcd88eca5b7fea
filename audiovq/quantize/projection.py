"""Linear maps between latents and low-dimensional code space."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.quantize.nearest import block_width, blocks


class _BlockLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = x.new_empty(len(weight), x.shape[0] * x.shape[2])
        buffer = x.new_empty(x.shape[1], block_width(x.device))
        for start, stop in blocks(x, buffer):
            y[:, start:stop] = torch.addmm(bias[:, None], weight, buffer)[:, : stop - start]
        return y.view(len(weight), x.shape[0], x.shape[2]).movedim(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        to_x = torch.matmul(weight.t(), grad) if ctx.needs_input_grad[0] else None
        to_weight = torch.matmul(grad, x.transpose(1, 2)).sum(0) if ctx.needs_input_grad[1] else None
        to_bias = grad.sum((0, 2)) if ctx.needs_input_grad[2] else None
        return to_x, to_weight, to_bias


class Projection(nn.Module):
    """``in``: latents ``(B, C, T)`` to code space ``(B, D, T)``; ``out``: back. 1x1 maps, tied at the start.

    The way in multiplies blocks of a fixed shape, so that a vector is projected to the same bits in any batch. The
    way out is only taken by the rows of a codebook and looked up from there.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.inward = nn.Linear(channels, dim)
        self.outward = nn.Linear(dim, channels)
        nn.init.orthogonal_(self.inward.weight)
        with torch.no_grad():
            self.outward.weight.copy_(self.inward.weight.t())
        nn.init.zeros_(self.inward.bias)
        nn.init.zeros_(self.outward.bias)

    def reduce(self, x: Tensor, frozen: bool = False) -> Tensor:
        """``(B, C, T)`` to ``(B, D, T)``; ``frozen``: no gradient to the weights."""
        weight, bias = self._parameters_of(self.inward, frozen)
        return _BlockLinear.apply(x, weight.to(x.dtype), bias.to(x.dtype))

    def expand(self, z: Tensor, frozen: bool = False) -> Tensor:
        """``(B, D, T)`` to ``(B, C, T)``, for gradients."""
        weight, bias = self._parameters_of(self.outward, frozen)
        return torch.matmul(weight, z) + bias[:, None]

    def table(self, vectors: Tensor) -> Tensor:
        """A codebook's vectors ``(K, D)`` as latents ``(K, C)``."""
        return F.linear(vectors.to(self.outward.weight.dtype), self.outward.weight, self.outward.bias)

    @torch.no_grad()
    def fit(self, vectors: Tensor, whiten: bool) -> None:
        """Start from the principal components of ``vectors (M, C)``: the subspace in which codes explain most.

        Args:
            whiten: give all components the same variance in code space, so that directions on a sphere are used evenly.
        """
        mean = vectors.mean(0)
        covariance = torch.cov(vectors.double().t()).float().reshape(len(mean), len(mean))
        values, directions = torch.linalg.eigh(covariance)
        dim = self.inward.out_features
        basis = directions[:, -dim:]  # (C, D), orthonormal
        scale = values[-dim:].clamp(min=1e-8 * float(values[-1].clamp(min=1e-12))).sqrt() if whiten else torch.ones(dim)
        scale = scale.to(basis.device)
        self.inward.weight.copy_((basis / scale).t())
        self.inward.bias.copy_(-self.inward.weight @ mean)
        self.outward.weight.copy_(basis * scale)
        self.outward.bias.copy_(mean)

    @staticmethod
    def _parameters_of(linear: nn.Linear, frozen: bool) -> tuple[Tensor, Tensor]:
        return (linear.weight.detach(), linear.bias.detach()) if frozen else (linear.weight, linear.bias)
