"""The training loop: steps with their own random numbers, a clock or a number of steps, checkpoints, exports, a log."""

from __future__ import annotations

import json
import logging
import math
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiovq.errors import AudioVQError
from audiovq.files import atomic_write

log = logging.getLogger("audiovq")


@dataclass(frozen=True)
class Place:
    """Where a run is.

    Attributes:
        step: steps done.
        progress: share of the run that is done, by steps or by the clock.
        rate: factor of the learning rates.
    """

    step: int
    progress: float
    rate: float


class Task(nn.Module):
    """What a run trains. Everything that a resumed run needs is in the state dict and in ``optimizers``."""

    optimizers: dict[str, torch.optim.Optimizer]
    rates: dict[str, float]
    #: Seconds of audio of a step, for the log.
    audio_seconds: float = 0.0

    @abstractmethod
    def training_step(self, place: Place) -> dict[str, Tensor]:
        """One update. Returns scalars to log."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Measures on validation data; ``loss`` decides which weights are best."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the model that users load."""

    def begin_from(self, source: Any) -> None:
        """Take weights from other models before the first step.

        Raises:
            AudioVQError: when the task cannot.
        """
        raise AudioVQError("training.init_from does not apply to this task")

    def update(self, name: str, loss: Tensor, parameters: Iterable[nn.Parameter], rate: float, clip: float) -> Tensor:
        """One optimizer step on ``loss``; returns the norm of the gradient."""
        optimizer = self.optimizers[name]
        for group in optimizer.param_groups:
            group["lr"] = self.rates[name] * rate * group.get("factor", 1.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        return norm


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move averaged weights towards the current ones; the decay grows, so that the start is forgotten soon."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), weight)


@torch.no_grad()
def copy_buffers(average: nn.Module, model: nn.Module) -> None:
    """Take over buffers as they are: statistics of codebooks are averages already."""
    for own, other in zip(average.buffers(), model.buffers(), strict=True):
        if own.shape != other.shape:
            own.resize_(other.shape)
        own.copy_(other)


class Run:
    """Trains a task until a number of steps or of minutes is reached; goes on where it stopped.

    Args:
        folder: gets ``state.safetensors`` and ``state.json`` to go on from, and the models ``latest`` and ``best``.
        max_steps: steps of the whole run; or
        minutes: of training, over all sittings; decides when ``max_steps`` is None.
        decay: share of the run over which the learning rate falls to zero at the end.
        warmup_steps: over which it rises.
        validate_every, checkpoint_every, log_every: steps; for a run by the clock, seconds.
        seed: of all random numbers.
        audio_seconds: audio of a step, for the log.
    """

    def __init__(
        self,
        folder: Path,
        max_steps: int | None,
        minutes: float | None,
        decay: float,
        warmup_steps: int,
        validate_every: int,
        checkpoint_every: int,
        log_every: int,
        seed: int,
        audio_seconds: float = 0.0,
    ) -> None:
        if (max_steps is None) == (minutes is None):
            raise AudioVQError("a run ends after max_steps or after minutes: give one of them")
        self.folder, self.max_steps, self.minutes = folder, max_steps, minutes
        self.decay, self.warmup_steps, self.seed = decay, warmup_steps, seed
        self.every = {"validate": validate_every, "checkpoint": checkpoint_every, "log": log_every}
        self.audio_seconds = audio_seconds
        self.step, self.seconds, self.best = 0, 0.0, math.inf

    def place(self) -> Place:
        """Where the run is now."""
        if self.max_steps is not None:
            progress = self.step / self.max_steps
        else:
            assert self.minutes is not None
            progress = self.seconds / (60 * self.minutes)
        warm = min(1.0, (self.step + 1) / max(self.warmup_steps, 1))
        fall = min(1.0, max(0.0, (1 - progress) / self.decay)) if self.decay else 1.0
        return Place(self.step, progress, warm * fall)

    def fit(self, task: Task) -> None:
        """Train until the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / "state.json").is_file():
            self.load(task)
            log.info("resuming %s at step %d", self.folder, self.step)
        clock = time.perf_counter()
        marks = {name: self._mark(name) for name in self.every}
        shown, shown_at = self.step, clock
        while self.place().progress < 1:
            torch.manual_seed((self.seed * 1_000_003 + self.step) * 4099)
            logged = task.training_step(self.place())
            self.step += 1
            now = time.perf_counter()
            self.seconds, clock = self.seconds + now - clock, now
            due = {name for name in self.every if self._mark(name) > marks[name]}
            marks = {name: self._mark(name) for name in self.every}
            if "log" in due:
                pace = (self.step - shown) / (now - shown_at)
                shown, shown_at = self.step, now
                self._log(logged, pace)
            ended = self.place().progress >= 1
            if "validate" in due or ended:
                self.validate(task)
            if "checkpoint" in due or ended:
                self.save(task)
            if due & {"validate", "checkpoint"}:
                shown_at = clock = time.perf_counter()

    def validate(self, task: Task) -> None:
        """Measure, export as ``latest``, and as ``best`` when the loss is the lowest so far."""
        measures = task.validate()
        if not math.isfinite(measures["loss"]):
            raise AudioVQError("validation loss is not finite: lower the learning rate and restart the run")
        log.info("validation  %s", "  ".join(f"{name} {value:.4g}" for name, value in measures.items()))
        for name in ["latest"] + ["best"] * (measures["loss"] < self.best):
            task.export(self.folder / name)
            note = {"step": self.step, "minutes": round(self.seconds / 60, 1), "validation": measures}
            with atomic_write(self.folder / name / "training.json") as path:
                path.write_text(json.dumps(note) + "\n")
        self.best = min(self.best, measures["loss"])

    def save(self, task: Task) -> None:
        """Write everything that going on needs."""
        from safetensors.torch import save

        tensors = dict(task.state_dict())
        for name, optimizer in task.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{name}/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
        unique = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with atomic_write(self.folder / "state.safetensors") as path:
            path.write_bytes(save(unique, {"step": str(self.step)}))
        with atomic_write(self.folder / "state.json") as path:
            path.write_text(json.dumps({"step": self.step, "seconds": self.seconds, "best": self.best}) + "\n")

    def load(self, task: Task) -> None:
        """Go on from what `save` wrote.

        Raises:
            AudioVQError: when it is damaged, or another task's.
        """
        from safetensors import safe_open

        try:
            state = json.loads((self.folder / "state.json").read_text())
            with safe_open(self.folder / "state.safetensors", "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            load_state(task, tensors)
        except Exception as error:
            raise AudioVQError(f"cannot resume from {self.folder}: {str(error).splitlines()[0]}") from error
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]

    def _mark(self, name: str) -> int:
        """Number of times that something was due by now."""
        return int(self.step if self.max_steps is not None else self.seconds) // self.every[name]

    def _log(self, logged: Mapping[str, Tensor], pace: float) -> None:
        values = "  ".join(f"{name} {float(value):.4g}" for name, value in logged.items())
        rate = f"{pace * self.audio_seconds:.1f} audio-s/s" if self.audio_seconds else f"{pace:.2f} steps/s"
        log.info("step %d (%.1f %%)  %s  %s", self.step, 100 * self.place().progress, values, rate)


def load_state(task: Task, tensors: dict[str, Tensor]) -> None:
    """Put a checkpoint's tensors into a task and its optimizers."""
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer/")}
    task.load_state_dict(own)
    for name, optimizer in task.optimizers.items():
        states: dict[int, dict[str, Any]] = {}
        for key, tensor in tensors.items():
            kind, _, rest = key.partition("/")
            if kind == "optimizer" and rest.startswith(f"{name}/"):
                _, index, entry = rest.split("/")
                states.setdefault(int(index), {})[entry] = tensor
        if states:
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
