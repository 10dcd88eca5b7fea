"""Batches of a data set by step for training and in order for validation; signals that stop a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from itertools import count
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from audiovq.training.precision import rank, world_size

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

    Args:
        dataset: item i is decided by i alone, for any i of 0 and more.
        batch_size: items of a step of one process.
        workers: processes that prepare items; 0: the training process does.
        device: where tensors are wanted.
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
