"""The few collective operations that keep codebooks the same on every rank. Without a process group they do nothing."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether there is more than one rank to agree with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_reduce_sum(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over the ranks, in place, with one message for all of them."""
    if not is_distributed():
        return
    joint = torch.cat([tensor.reshape(-1).to(tensors[0].dtype) for tensor in tensors])
    dist.all_reduce(joint)
    for tensor, part in zip(tensors, joint.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def row_counts(n_rows: int, device: torch.device) -> list[int]:
    """How many rows each rank holds, in the order of the ranks."""
    if not is_distributed():
        return [n_rows]
    counts = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=device)
    counts[dist.get_rank()] = n_rows
    dist.all_reduce(counts)
    return counts.tolist()


def gather_rows(rows: Tensor) -> Tensor:
    """Rows ``(N, D)`` of all ranks, one rank after the other; ``N`` may differ from rank to rank."""
    if not is_distributed():
        return rows
    counts = row_counts(len(rows), rows.device)
    padded = rows.new_zeros(max(counts), rows.shape[1])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


def pick_rows(rows: Tensor, indices: Tensor, counts: list[int]) -> Tensor:
    """Rows at ``indices`` of the joint batch (see :func:`gather_rows`) without sending the whole batch around."""
    if not is_distributed():
        return rows[indices]
    rank = dist.get_rank()
    local = indices - sum(counts[:rank])
    mine = (local >= 0) & (local < counts[rank])
    picked = rows.new_zeros(len(indices), rows.shape[1])
    picked[mine] = rows[local[mine]]
    dist.all_reduce(picked)
    return picked


def broadcast(tensor: Tensor) -> None:
    """Overwrite ``tensor`` by that of the first rank."""
    if is_distributed():
        dist.broadcast(tensor, 0)
