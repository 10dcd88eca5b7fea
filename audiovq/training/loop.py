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
from audiovq.io import atomic_write
from audiovq.training.batches import (
    Stopped,
    StopSignals,
    agree,
    average_gradients,
    broadcast_state,
    rank,
    wait_for_all,
    world_size,
)


def add_previews(writer: Any, step: int, reference: Iterable[Tensor], decoded: Iterable[Tensor], rate: int) -> None:
    """Audio and spectrogram of each reference and its decoded waveform (both (T,)), at ``rate`` Hz."""
    for i, (target, estimate) in enumerate(zip(reference, decoded, strict=True)):
        for name, signal in (("reference", target), ("decoded", estimate)):
            writer.add_audio(f"{name}/{i}", signal.float().cpu().clamp(-1, 1)[None], step, rate)
        figure = spectrograms(target, estimate, rate)
        if figure is not None:
            writer.add_figure(f"spectrogram/{i}", figure, step)


def spectrograms(reference: Tensor, decoded: Tensor, rate: int) -> Any:
    """A matplotlib figure: spectrogram of the reference above that of the decoded waveform (both (T,)).

    None without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(8, 5), layout="constrained")
    for axis, signal, title in zip(figure.subplots(2), (reference, decoded), ("reference", "decoded"), strict=True):
        spectrum = torch.stft(signal.float().cpu(), 512, 128, window=torch.hann_window(512), return_complex=True).abs()
        level = 20 * torch.log10(spectrum + 1e-3)
        extent = (0, len(signal) / rate, 0, rate / 2000)
        axis.imshow(level.numpy(), origin="lower", aspect="auto", extent=extent, vmin=-50, vmax=40, cmap="magma")
        axis.set(title=title, ylabel="kHz")
    return figure


log = logging.getLogger("audiovq")


@dataclass(frozen=True)
class Place:
    """A run's position.

    Attributes:
        step: steps done.
        progress: share of the run that is done, by steps or by the clock.
        rate: factor of the learning rates.
    """

    step: int
    progress: float
    rate: float


class Task(nn.Module):
    """A model with its data, losses and optimizers, trained by a `Run`.

    Everything that a resumed run needs is in the state dict and in ``optimizers``.
    """

    optimizers: dict[str, torch.optim.Optimizer]
    rates: dict[str, float]
    #: Seconds of audio of a step of one process, for the log.
    audio_seconds: float = 0.0
    #: Device of the computation, and whether it is in bfloat16 where that is safe.
    device: torch.device = torch.device("cpu")
    mixed: bool = False

    @abstractmethod
    def training_step(self, place: Place) -> dict[str, Tensor]:
        """One update. Returns scalars to log."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Measures on validation data; ``loss`` decides which weights are best. Every process does the same."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the model that users load."""

    def preview(self, writer: Any, step: int) -> None:
        """Add audio or figures to a TensorBoard ``SummaryWriter``, after each validation."""

    def begin_from(self, source: Any) -> None:
        """Take weights from other models before the first step.

        Raises:
            AudioVQError: when the task cannot.
        """
        raise AudioVQError("training.init_from does not apply to this task")

    def autocast(self) -> torch.autocast:
        """The context for computations that may be in bfloat16."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)

    def update(self, name: str, loss: Tensor, rate: float, clip: float) -> Tensor:
        """One step of an optimizer on ``loss``, its gradient averaged over the processes.

        Args:
            name: of the optimizer.
            rate: factor of its learning rate.
            clip: largest norm of the gradient, of all its parameters together.

        Returns:
            The norm of the gradient before.
        """
        optimizer = self.optimizers[name]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for group in optimizer.param_groups:
            group["lr"] = self.rates[name] * rate * group.get("factor", 1.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(parameters)
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
    """Trains a task until a number of steps or of minutes is reached.

    In several processes (see `audiovq.training.batches`) each trains on batches of its own; process 0 alone writes.

    Args:
        folder: gets ``state.safetensors`` to resume from, the models ``latest`` and ``best``, and TensorBoard's curves.
        seed: of all random numbers: those of a step follow from seed, step and process.
        max_steps: steps of the whole run; or
        minutes: of training, over all sittings; decides when ``max_steps`` is None.
        decay: share of the run over which the learning rate falls to zero at the end.
        warmup_steps: over which it rises.
        validate_every, checkpoint_every, log_every: steps; for a run by the clock, seconds.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        max_steps: int | None = None,
        minutes: float | None = None,
        decay: float = 0.2,
        warmup_steps: int = 100,
        validate_every: int = 500,
        checkpoint_every: int = 250,
        log_every: int = 50,
    ) -> None:
        if (max_steps is None) == (minutes is None):
            raise AudioVQError("a run ends after training.max_steps or after training.minutes: give one of them")
        self.folder, self.seed, self.max_steps, self.minutes = folder, seed, max_steps, minutes
        self.decay, self.warmup_steps = decay, warmup_steps
        self.every = {"validate": validate_every, "checkpoint": checkpoint_every, "log": log_every}
        self.step, self.seconds, self.best = 0, 0.0, math.inf
        self._writer: Any = None
        #: Time of ``time.perf_counter()`` at which this sitting ends, wherever the run is by then; None: with the run.
        self.deadline: float | None = None

    def place(self) -> Place:
        """The run's position now."""
        if self.max_steps is not None:
            progress = self.step / self.max_steps
        else:
            assert self.minutes is not None
            progress = self.seconds / (60 * self.minutes)
        warm = min(1.0, (self.step + 1) / max(self.warmup_steps, 1))
        fall = min(1.0, max(0.0, (1 - progress) / self.decay)) if self.decay else 1.0
        return Place(self.step, progress, warm * fall)

    def ended(self) -> bool:
        """Whether the run, or this sitting, is over."""
        return self.place().progress >= 1 or (self.deadline is not None and time.perf_counter() >= self.deadline)

    def fit(self, task: Task) -> None:
        """Train until the end.

        Raises:
            AudioVQError: when the validation loss is not finite.
            Stopped: after a signal that asked to stop; the state is saved.
        """
        if self.place().progress >= 1:
            log.info("all %d steps are done", self.step)
            if not (self.folder / "latest").is_dir():  # they were done on another machine
                self.validate(task)
            return
        broadcast_state(task)
        with StopSignals() as stop:
            if rank() == 0:
                self._writer = open_writer(self.folder, self.step)
            try:
                self._loop(task, stop)
            finally:
                if self._writer is not None:
                    self._writer.close()
                    self._writer = None

    def _loop(self, task: Task, stop: StopSignals) -> None:
        clock = time.perf_counter()
        marks = {name: self._mark(name) for name in self.every}
        logged_step, logged_at = self.step, clock
        ended = self.ended()
        while not ended:
            torch.manual_seed((self.seed * 1_000_003 + self.step) * 4099 + rank())
            logged = task.training_step(self.place())
            self.step += 1
            now = time.perf_counter()
            self.seconds, number = agree(self.seconds + now - clock, stop.number)
            clock = now
            due = {name for name in self.every if self._mark(name) > marks[name]}
            marks = {name: self._mark(name) for name in self.every}
            ended = self.ended()
            if "log" in due:
                self._log(task, logged, (self.step - logged_step) / (now - logged_at))
                logged_step, logged_at = self.step, now
            if validated := "validate" in due or ended:
                self.validate(task)
            if saved := "checkpoint" in due or ended or bool(number):
                self.save(task)
            if number and not ended:
                log.info("stopped at step %d; the same command resumes", self.step)
                raise Stopped(number)
            if validated or saved:
                logged_step, logged_at, clock = self.step, time.perf_counter(), time.perf_counter()

    def validate(self, task: Task) -> None:
        """Measure, export as ``latest``, and as ``best`` when the loss is the lowest so far."""
        measures = task.validate()
        if not math.isfinite(measures["loss"]):
            raise AudioVQError("validation loss is not finite: lower the learning rate and restart the run")
        is_best, self.best = measures["loss"] < self.best, min(self.best, measures["loss"])
        if rank() > 0:
            return
        log.info("validation  %s", "  ".join(f"{name} {value:.4g}" for name, value in measures.items()))
        for name in ["latest"] + ["best"] * is_best:
            task.export(self.folder / name)
            note = {"step": self.step, "minutes": round(self.seconds / 60, 1), "validation": measures}
            with atomic_write(self.folder / name / "training.json") as path:
                path.write_text(json.dumps(note) + "\n")
        self._add_scalars("validation", measures)
        if self._writer is not None:
            with torch.no_grad():
                task.preview(self._writer, self.step)

    def save(self, task: Task) -> None:
        """Write everything that resuming needs, by renaming: an interrupted write leaves the last checkpoint."""
        from safetensors.torch import save_file

        if rank() == 0:
            unique = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_of(task).items()}
            note = {"step": self.step, "seconds": self.seconds, "best": self.best, "task": type(task).__name__}
            with atomic_write(self.folder / "state.safetensors") as path:
                # Beside the weights in one file, so that both are of the same step.
                save_file(unique, path, {"step": str(self.step), "state": json.dumps(note)})
            with atomic_write(self.folder / "state.json") as path:
                path.write_text(json.dumps(note) + "\n")
        wait_for_all()

    def resume(self, task: Task) -> bool:
        """Take the state that `save` wrote, if there is one.

        Raises:
            AudioVQError: when it is damaged, or another task's or model's.
        """
        from safetensors import safe_open

        if not (self.folder / "state.safetensors").is_file():
            return False
        try:
            with safe_open(self.folder / "state.safetensors", "pt") as file:
                written = (file.metadata() or {}).get("state") or (self.folder / "state.json").read_text()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = json.loads(written)
            self.step, self.seconds, self.best = int(state["step"]), float(state["seconds"]), float(state["best"])
        except Exception as error:
            raise AudioVQError(f"cannot resume from {self.folder}: {' '.join(str(error).split())}") from error
        name = type(task).__name__
        if state.get("task", name) != name:
            raise AudioVQError(f"{self.folder} holds a run of {state['task']}, not of {name}: choose another name=")
        try:
            load_state(task, tensors)
        except RuntimeError as error:
            detail = " ".join(str(error).split())
            raise AudioVQError(
                f"{self.folder} holds a run of another model: choose another name=, or its settings ({detail[:150]})"
            ) from error
        log.info("resuming %s at step %d", self.folder, self.step)
        return True

    def _mark(self, name: str) -> int:
        """Number of times that something was due by now."""
        return int(self.step if self.max_steps is not None else self.seconds) // self.every[name]

    def _log(self, task: Task, logged: Mapping[str, Tensor], pace: float) -> None:
        if rank() > 0:
            return
        values = {name: float(value) for name, value in logged.items()}
        progress, audio = self.place().progress, pace * task.audio_seconds * world_size()
        left = max(self.seconds * (1 - progress) / max(progress, 1e-9), 0.0)
        log.info(
            "step %d (%.1f %%)  %s  %s  %dh%02dm left",
            self.step,
            100 * progress,
            "  ".join(f"{name} {value:.4g}" for name, value in values.items()),
            f"{audio:.1f} audio-s/s" if audio else f"{pace:.2f} steps/s",
            left // 3600,
            left % 3600 // 60,
        )
        speed = {"audio_seconds_per_second": audio} if audio else {"steps_per_second": pace}
        self._add_scalars("train", values | speed | {"rate": self.place().rate})

    def _add_scalars(self, prefix: str, values: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{prefix}/{name}", value, self.step)


def open_writer(folder: Path, step: int) -> Any:
    """A TensorBoard ``SummaryWriter`` that goes on at ``step``; None where the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder / "tensorboard", purge_step=step)


def state_of(task: Task) -> dict[str, Tensor]:
    """A checkpoint's tensors: the task's, and its optimizers' as ``optimizer/NAME/INDEX/KEY``."""
    tensors = dict(task.state_dict())
    for name, optimizer in task.optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{name}/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
    return tensors


def load_state(task: Task, tensors: Mapping[str, Tensor]) -> None:
    """Put a checkpoint's tensors into a task and its optimizers.

    Raises:
        RuntimeError: when they do not fit.
    """
    task.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer/")})
    for name, optimizer in task.optimizers.items():
        states: dict[int, dict[str, Any]] = {}
        for key, tensor in tensors.items():
            kind, _, rest = key.partition("/")
            if kind == "optimizer" and rest.startswith(f"{name}/"):
                _, index, entry = rest.split("/")
                states.setdefault(int(index), {})[entry] = tensor
        if states:
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for AdamW: matrices and kernels decay, biases and gains do not."""
    listed = list(parameters)
    return [
        {"params": [p for p in listed if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in listed if p.dim() <= 1], "weight_decay": 0.0},
    ]
