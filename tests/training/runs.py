"""Helpers for tests of runs: their state, and breaking off like a killed process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor


def state_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a run's checkpoint: of the task and of its optimizers."""
    return load_file(folder / "state.safetensors")


def step_of(folder: Path) -> int:
    """The step of a run's checkpoint."""
    return json.loads((folder / "state.json").read_text())["step"]


def differences(one: Path, other: Path) -> list[str]:
    """Names of the tensors in which the checkpoints of two runs differ."""
    first, second = state_of(one), state_of(other)
    return sorted(set(first) ^ set(second)) + [name for name in first if not torch.equal(first[name], second[name])]


@contextmanager
def unplugged_at(task: type, step: int) -> Iterator[None]:
    """Break off at a step without any farewell, as a killed process does, and expect that."""
    original = task.training_step

    def step_or_stop(self, place):
        if place.step == step:
            raise RuntimeError("pulled the plug")
        return original(self, place)

    task.training_step = step_or_stop
    try:
        with pytest.raises(RuntimeError, match="pulled the plug"):
            yield
    finally:
        task.training_step = original
