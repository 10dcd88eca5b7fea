"""Device and precision of a run, the processes that share it, its batches, and signals that stop it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

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
    from audiovq.kernels import cpu_features

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
    # An optimizer imports it at its first step. Where there is a group by then, that import keeps it alive: gloo's
    # threads outlive destroy_process_group, and one that frees a tensor while the interpreter ends aborts the process.
    import torch._dynamo

    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        wait_for_all()
    finally:
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Return once every process is here."""
    if is_distributed():
        dist.all_reduce(torch.zeros(1))


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
    for parameter, total, n_ranks in zip(parameters, sums, counts.tolist(), strict=True):
        parameter.grad = (total / world_size()).view_as(parameter).to(parameter.dtype) if n_ranks else None


def agree(seconds: float, signal_number: int) -> tuple[float, int]:
    """The clock of process 0, and a signal number that any process received (0 for none)."""
    if not is_distributed():
        return seconds, signal_number
    values = torch.tensor([seconds if rank() == 0 else 0.0, float(signal_number)], dtype=torch.float64)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return float(values[0]), int(values[1])


SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Stopped(KeyboardInterrupt):
    """A run that saved its state and stopped because of signal ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class StopSignals:
    """Within this context, ``number`` is the first signal that asked to stop, 0 until then.

    A second Ctrl-C interrupts at once (in a single process: launchers of several pass signals on, so that each arrives
    more than once). Signals that the parent ignores stay ignored.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._receive) for number in wanted}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT and world_size() == 1:
            raise KeyboardInterrupt
        self.number = self.number or number


def ignore_signals(worker: int = 0) -> None:
    """Leave stopping to the main process: what a data-loading worker starts with."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StepSampler(Sampler[int]):
    """Indices of one process from step ``first`` on: step s takes ``s * batch * ranks`` and on, without an end."""

    def __init__(self, first: int, batch_size: int, rank: int = 0, ranks: int = 1) -> None:
        self.first, self.batch_size, self.rank, self.ranks = first, batch_size, rank, ranks

    def __iter__(self) -> Iterator[int]:
        for step in count(self.first):
            start = (step * self.ranks + self.rank) * self.batch_size
            yield from range(start, start + self.batch_size)


class StepBatches:
    """Training batches. The place in the data is the step alone, so that resuming continues exactly.

    Item i of the dataset is decided by i alone, for any i of 0 and more. Without workers the process itself prepares.
    """

    def __init__(self, dataset: Dataset, batch_size: int, workers: int = 0, device: torch.device | str = "cpu") -> None:
        self.dataset, self.batch_size, self.workers = dataset, batch_size, workers
        self.device = torch.device(device)
        self._next, self._batches = -1, iter(())

    def at(self, step: int) -> dict[str, Tensor]:
        """The batch of a step; asking for steps in a row keeps the workers busy."""
        if step != self._next:
            loader: DataLoader[Any] = DataLoader(
                self.dataset,
                self.batch_size,
                sampler=StepSampler(step, self.batch_size, rank(), world_size()),
                num_workers=self.workers,
                worker_init_fn=ignore_signals,
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator(),  # else starting it would draw from the generator of the step
            )
            self._batches = iter(loader)
        self._next = step + 1
        return to_device(next(self._batches), self.device)


def ordered_batches(
    dataset: Dataset, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[dict[str, Tensor]]:
    """All items once, for validation."""
    loader: DataLoader[Any] = DataLoader(dataset, batch_size, generator=torch.Generator())
    for batch in loader:
        yield to_device(batch, torch.device(device))


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on a device."""
    return {name: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for name, v in batch.items()}
