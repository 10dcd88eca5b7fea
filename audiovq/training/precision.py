"""Device and precision of a run, and the processes that share it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from audiovq.errors import AudioVQError
from audiovq.quantize.codebook import is_distributed

_BFLOAT16 = frozenset({"avx512bf16", "amx-bf16", "bf16"})
"""Features of processors, as LLVM names them (x86-64 and ARM), with which products of bfloat16 are fast."""


def pick_device(name: str) -> torch.device:
    """A device of torch by its name; ``auto`` is the GPU where there is one for CUDA, else the CPU.

    Raises:
        AudioVQError: when there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise AudioVQError(f"unknown device {name!r}: give auto, cpu, cuda or mps") from None
    missing = device.type == "cuda" and not torch.cuda.is_available()
    if missing or (device.type == "mps" and not torch.backends.mps.is_available()):
        raise AudioVQError(f"training.device={name}, but PyTorch sees no such device here")
    return device


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16 where that is safe; with ``auto``, where the device has instructions for it.

    Without them its products are emulated, many times slower than those of float32.

    Raises:
        AudioVQError: for an unknown precision.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise AudioVQError(f"unknown precision {precision!r}: give auto, float32 or bfloat16")
    return precision == "bfloat16" or (precision == "auto" and bfloat16_is_fast(device.type))


def bfloat16_is_fast(device_type: str) -> bool:
    """Whether a type of device has instructions for products of bfloat16."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "cpu" and bool(_BFLOAT16 & processor_features())


def processor_features() -> set[str]:
    """LLVM's names of the processor's instruction sets; empty where LLVM does not know."""
    from audiovq.processor import cpu_features

    try:
        return cpu_features()
    except RuntimeError:
        return set()


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
