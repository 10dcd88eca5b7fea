"""Operations that quantizers share, and their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.errors import AudioVQError


class QuantizerError(AudioVQError, ValueError):
    """Latents, codes or settings that a quantizer cannot work with."""


@dataclass
class Quantized:
    """Result of a quantizer's forward pass.

    Attributes:
        latents: ``(B, C, *dims)``, bit for bit the latents that ``quantizer.decode(codes)`` gives.
        codes: ``(B, K, *dims)`` int64, codebooks from coarse to fine. -1 stands for "no code": that codebook adds
            nothing there (quantizer dropout, or a codebook that waits for its first data).
        loss: scalar, to be added to the reconstruction loss.
        metrics: scalars to log: always ``perplexity``, ``usage``, ``usage_window`` and ``restarts``.
        n_codebooks: ``(B,)`` int64 on the host, codebooks of each item that are in use; None where it is not reported.
    """

    latents: Tensor
    codes: Tensor
    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    n_codebooks: Tensor | None = None


def check_latents(latents: Tensor, channels: int) -> None:
    """Raise `QuantizerError` unless latents are floating-point ``(B, channels, *dims)``."""
    if latents.dim() < 2 or latents.shape[1] != channels or not latents.is_floating_point():
        raise QuantizerError(
            f"latents must be floats (B, {channels}, *dims), not {latents.dtype} {tuple(latents.shape)}"
        )


def check_n_codebooks(n_codebooks: int | None, available: int) -> None:
    """Raise `QuantizerError` unless a number of codebooks is from 1 to ``available``, or None: all."""
    if n_codebooks is not None and not 1 <= n_codebooks <= available:
        raise QuantizerError(f"n_codebooks must be from 1 to {available}, not {n_codebooks}")


def check_codes(codes: Tensor, size: int, available: int) -> None:
    """Raise `QuantizerError` unless codes are int64 ``(B, 1..available, *dims)`` in ``[-1, size)``."""
    if codes.dim() < 2 or not 1 <= codes.shape[1] <= available or codes.dtype != torch.int64:
        raise QuantizerError(f"codes must be int64 (B, 1..{available}, *dims), not {codes.dtype} {tuple(codes.shape)}")
    if codes.numel() and (int(codes.max()) >= size or int(codes.min()) < -1):
        raise QuantizerError(f"codes must be below {size} (or -1 for none)")


BLOCK = 256  # vectors in a block, where nothing else decides
_GROUP = 16  # codes whose minimum is taken at once


def flatten_dims(latents: Tensor) -> Tensor:
    """``(B, C, *dims)`` to float32 ``(B, C, T)``."""
    return latents.float().flatten(2) if latents.dim() > 2 else latents.float()[:, :, None]


# -- search and lookup ------------------------------------------------------------------------------------------------


def block_width(device: torch.device, size: int = 1024) -> int:
    """Vectors per block on ``device`` for a table of ``size`` rows, independent of the number of vectors."""
    if device.type != "cpu":
        return 64 * BLOCK  # launching kernels costs more than memory
    # A megabyte of scores stays in the second-level cache; more vectors cost fewer calls.
    return min(max(2**18 // size // 64 * 64, 64), 4 * BLOCK)


def blocks(x: Tensor, buffer: Tensor) -> Iterator[tuple[int, int]]:
    """Copy the vectors of ``x (B, D, T)`` block by block into ``buffer (D, W)``; yield their range in ``B * T``.

    The last block is padded with zeros, so that a product with ``buffer`` always calls the same kernel.
    """
    n_items, _, length = x.shape
    width = buffer.shape[1]
    for start in range(0, n_items * length, width):
        stop = min(start + width, n_items * length)
        at = start
        while at < stop:
            item, offset = divmod(at, length)
            target = buffer[:, at - start :]
            n_whole = (stop - at) // length
            if offset == 0 and n_whole > 0:
                step = n_whole * length
                target[:, :step].unflatten(1, (n_whole, length)).copy_(x[item : item + n_whole].movedim(0, 1))
            else:
                step = min(length - offset, stop - at)
                target[:, :step].copy_(x[item, :, offset : offset + step])
            at += step
        if stop - start < width:
            buffer[:, stop - start :].zero_()
        yield start, stop


@contextmanager
def exact_products() -> Iterator[None]:
    """Full float32 in matrix products, whatever else is allowed: the nearest codes are often close to each other."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@torch.no_grad()
@exact_products()
def nearest(x: Tensor, table: Tensor, sums: Tensor | None = None, costs: Tensor | None = None) -> Tensor:
    """Index of the row of ``table (K, D)`` with the smallest Euclidean distance to each vector of ``x (B, D, T)``.

    Returns ``(B, T)`` int64; of equal distances the lowest index wins (on CPU). All products have the same shape
    whatever ``B`` and ``T`` are, because the last block is padded with zeros: on one machine, with one number of
    threads, a vector gets the same code in any batch, with any padding and in chunks of any size.

    Args:
        sums: ``(D, K)``; every vector is added to the column of its code, while its block is still in the cache.
        costs: ``(K,)``, added to the squared distance to each row.
    """
    n_items, dim, length = x.shape
    spare = -len(table) % _GROUP
    # argmin |x - e|^2 = argmin |e|^2 / 2 - e.x; rows that only fill up a group are infinitely far away.
    half_norm = (table.square().sum(1) / 2)[:, None]
    if costs is not None:
        half_norm = half_norm + costs[:, None] / 2
    if spare:
        half_norm = F.pad(half_norm, (0, 0, 0, spare), value=float("inf"))
        table = F.pad(table, (0, 0, 0, spare))
    n_groups = len(table) // _GROUP
    codes = torch.empty(n_items * length, dtype=torch.int64, device=x.device)
    width = block_width(x.device, len(table))
    buffer = table.new_empty(dim, width)
    scores = table.new_empty(len(table), width)
    grouped = scores.view(n_groups, _GROUP, width)
    lowest = scores.new_empty(n_groups, width)
    candidates = scores.new_empty(1, _GROUP, width)
    for start, stop in blocks(x, buffer):
        torch.addmm(half_norm, table, buffer, alpha=-1, out=scores)
        # min with indices is a scalar loop while amin is vectorised: find the best group first, then look inside it.
        torch.amin(grouped, 1, out=lowest)
        group = lowest.min(0).indices
        torch.gather(grouped, 0, group.expand(1, _GROUP, width), out=candidates)
        chosen = codes[start:stop]
        torch.add(candidates[0].min(0).indices[: len(chosen)], group[: len(chosen)], alpha=_GROUP, out=chosen)
        if sums is not None:
            sums.index_add_(1, chosen, buffer[:, : len(chosen)])
    return codes.view(n_items, length).clamp_(max=len(table) - spare - 1)


def count_codes(codes: Tensor, size: int) -> Tensor:
    """How often each of ``size`` codes occurs in ``codes``, of any shape -> ``(size,)`` int64."""
    if codes.device.type == "cpu":
        return torch.bincount(codes.flatten(), minlength=size)
    ones = torch.ones_like(codes).flatten()  # bincount asks the device for the largest code, and waits for the answer
    return torch.zeros(size, dtype=ones.dtype, device=codes.device).scatter_add_(0, codes.flatten(), ones)


def lookup(codes: Tensor, table: Tensor) -> Tensor:
    """Rows of ``table (K, C)`` for ``codes (B, T)`` as ``(B, C, T)``; zeros where the code is -1."""
    n_items, length = codes.shape
    absent = codes < 0
    some_absent = codes.device.type != "cpu" or bool(absent.any())  # asking another device would wait for it
    chosen = codes.clamp(min=0) if some_absent else codes
    if length < 8 or codes.numel() < len(table):
        value = F.embedding(chosen, table).movedim(-1, 1).contiguous()
    else:  # channel-first from the start: transposing the table costs less than transposing everything
        columns = table.t().contiguous().expand(n_items, -1, -1)
        value = columns.gather(2, chosen[:, None].expand(-1, table.shape[1], -1))
    return value.masked_fill_(absent[:, None], 0) if some_absent else value


# -- gradients through the choice of a code ---------------------------------------------------------------------------


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

        # R = I - 2 r r' + 2 q e' rotates e = x / |x| into q = value / |value|; the gradient is multiplied by R'.
        rotated = grad - 2 * middle * dot(middle, grad) + 2 * x_hat * dot(value_hat, grad)
        # A zero vector has no direction to rotate: there the gradient goes straight through.
        defined = (x_norm > 1e-12) & (value_norm > 1e-12)
        return torch.where(defined, rotated * (value_norm / x_norm.clamp(min=1e-12)), grad), None


class _SquaredDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        total = x.new_zeros((), dtype=torch.float64)
        # In pieces of a megabyte: mse_loss allocates a tensor of the size of its input. Launching kernels costs more.
        both = (x.view(-1), y.view(-1)) if x.is_contiguous() and y.is_contiguous() else (x, y)
        rows = max(1, 2**18 * len(both[0]) // max(x.numel(), 1) if x.device.type == "cpu" else len(both[0]))
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
    """``||x - y||^2`` over dimension 1, averaged over all latents; 0 for none. Allocates no copy of ``x``."""
    return _SquaredDistance.apply(x, y) / max(x.numel() // x.shape[1], 1)


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """Exactly ``value``, with the gradient passed on to ``x`` unchanged (van den Oord et al. 2017, section 3.2).

    Unlike ``x + (value - x).detach()`` this does not round.
    """
    return _Replace.apply(x, value.detach())


def rotation(x: Tensor, value: Tensor) -> Tensor:
    """Exactly ``value``, with the rotation trick's gradient to ``x`` (Fifty et al. 2024, section 4).

    Vectors are along dimension 1. The gradient is rotated as quantization does ``x``, so that it keeps its angle to the
    vector, and scaled by ``|value| / |x|``.
    """
    return _Rotate.apply(x, value.detach())


GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"straight_through": straight_through, "rotation": rotation}
"""Gradient estimators by name."""


# -- linear map -------------------------------------------------------------------------------------------------------


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


def block_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``weight (D, C) @ x (B, C, T) + bias (D,)`` in blocks of a fixed shape -> ``(B, D, T)``.

    A vector is mapped to the same bits in any batch, as in `nearest`.
    """
    return _BlockLinear.apply(x, weight.to(x.dtype), bias.to(x.dtype))
