"""Nearest codebook vectors, in blocks of one fixed shape."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256  # vectors in a block, where nothing else decides
_GROUP = 16  # codes whose minimum is taken at once


def block_width(device: torch.device, size: int = 1024) -> int:
    """Vectors in a block on ``device`` for a table of ``size`` rows: always the same number, however few there are."""
    if device.type != "cpu":
        return 64 * BLOCK  # launching kernels costs more than memory
    # A megabyte of scores stays in the second-level cache; more vectors cost fewer calls.
    return min(max(2**18 // size // 64 * 64, 64), 4 * BLOCK)


def blocks(x: Tensor, buffer: Tensor) -> Iterator[tuple[int, int]]:
    """Copy the vectors of ``x (B, D, T)`` block by block into ``buffer (D, W)``; yield their range in ``B * T``.

    The last block is filled up with zeros, so that whoever multiplies ``buffer`` always calls the same kernel.
    """
    n_items, _, length = x.shape
    width = buffer.shape[1]
    for start in range(0, n_items * length, width):
        stop = min(start + width, n_items * length)
        at = start
        while at < stop:
            item, offset = divmod(at, length)
            target = buffer[:, at - start :]
            whole = (stop - at) // length
            if offset == 0 and whole > 0:
                step = whole * length
                target[:, :step].unflatten(1, (whole, length)).copy_(x[item : item + whole].movedim(0, 1))
            else:
                step = min(length - offset, stop - at)
                target[:, :step].copy_(x[item, :, offset : offset + step])
            at += step
        if stop - start < width:
            buffer[:, stop - start :].zero_()
        yield start, stop


@torch.no_grad()
def nearest(x: Tensor, table: Tensor, sums: Tensor | None = None, costs: Tensor | None = None) -> Tensor:
    """Index of the row of ``table (K, D)`` with the smallest Euclidean distance to each vector of ``x (B, D, T)``.

    Returns ``(B, T)`` int64; of equal distances the lowest index wins (on CPU). All products have the very same shape
    whatever ``B`` and ``T`` are, the last block being filled up with zeros: on one machine, with one number of threads,
    a vector gets the same code in any batch, with any padding and in chunks of any size.

    Args:
        sums: ``(D, K)``; every vector is added to the column of its code, while its block is still in the cache.
        costs: ``(K,)``, added to the squared distance to each row: what else choosing it costs.
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
        found = codes[start:stop]
        torch.add(candidates[0].min(0).indices[: len(found)], group[: len(found)], alpha=_GROUP, out=found)
        if sums is not None:
            sums.index_add_(1, found, buffer[:, : len(found)])
    return codes.view(n_items, length).clamp_(max=len(table) - spare - 1)


def lookup(codes: Tensor, table: Tensor) -> Tensor:
    """Rows of ``table (K, C)`` for ``codes (B, T)`` as ``(B, C, T)``; zeros where the code is -1."""
    n_items, length = codes.shape
    absent = codes < 0
    some_absent = bool(absent.any())
    chosen = codes.clamp(min=0) if some_absent else codes
    if length < 8 or codes.numel() < len(table):
        value = F.embedding(chosen, table).movedim(-1, 1).contiguous()
    else:  # channel-first from the start: transposing the table costs less than transposing everything
        columns = table.t().contiguous().expand(n_items, -1, -1)
        value = columns.gather(2, chosen[:, None].expand(-1, table.shape[1], -1))
    return value.masked_fill_(absent[:, None], 0) if some_absent else value
