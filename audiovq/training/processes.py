"""Several processes that train one model: joining them, averaging gradients, agreeing on the clock."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from audiovq.quantize.codebook import is_distributed


def rank() -> int:
    """Number of this process; 0 where there is one."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_distributed() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that ``torchrun`` started, if it did: by NCCL on GPUs, by gloo on CPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or is_distributed():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        wait_for_all()
    finally:
        dist.destroy_process_group()


_TOKEN = torch.zeros(1)
"""Kept: were it freed by gloo's thread while the interpreter ends, the process would abort."""


def wait_for_all() -> None:
    """Return once every process is here."""
    if is_distributed():
        dist.all_reduce(_TOKEN)


def broadcast_state(module: nn.Module) -> None:
    """Give every process the parameters and buffers of process 0."""
    if is_distributed():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.numel():
                dist.broadcast(tensor.detach(), 0)


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes; those without a gradient count as zero.

    A parameter that no process has a gradient for stays without, as in a single process.
    """
    if not is_distributed():
        return
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    present = torch.tensor([float(p.grad is not None) for p in parameters], device=parts[0].device)
    flat = torch.cat([*(part.flatten().float() for part in parts), present])
    dist.all_reduce(flat)
    *sums, counts = flat.split([*(p.numel() for p in parameters), len(parameters)])
    for parameter, total, count in zip(parameters, sums, counts.tolist(), strict=True):
        parameter.grad = (total / world_size()).view_as(parameter).to(parameter.dtype) if count else None


def agree(seconds: float, signal_number: int) -> tuple[float, int]:
    """The clock of process 0, and a signal number that any process received (0 for none)."""
    if not is_distributed():
        return seconds, signal_number
    values = torch.tensor([seconds if rank() == 0 else 0.0, float(signal_number)], dtype=torch.float64)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return float(values[0]), int(values[1])
