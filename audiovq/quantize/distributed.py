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


def joint_size(n: int, device: torch.device) -> list[int]:
    """How many vectors each rank holds, in the order of the ranks."""
    if not is_distributed():
        return [n]
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=device)
    sizes[dist.get_rank()] = n
    dist.all_reduce(sizes)
    return sizes.tolist()


def pick(x: Tensor, indices: Tensor, sizes: list[int]) -> Tensor:
    """Vectors ``(M, D)`` at ``indices (M,)`` of the joint batch, the same on every rank.

    Args:
        x: ``(B, D, T)``, this rank's batch; the joint batch is those of all ranks along ``B``, in their order.
        sizes: see :func:`joint_size`.
    """
    length = x.shape[2]
    indices = indices.to(x.device)
    if not is_distributed():
        return x[indices // length, :, indices % length]
    rank = dist.get_rank()
    local = indices - sum(sizes[:rank])
    mine = (local >= 0) & (local < sizes[rank])
    # Every vector has one owner and everybody else adds zero: exact, and far less to send than the batch.
    picked = x.new_zeros(len(indices), x.shape[1])
    picked[mine] = x[local[mine] // length, :, local[mine] % length] if length else picked[mine]
    dist.all_reduce(picked)
    return picked


def broadcast(tensor: Tensor) -> None:
    """Overwrite ``tensor`` by that of the first rank."""
    if is_distributed():
        dist.broadcast(tensor, 0)
