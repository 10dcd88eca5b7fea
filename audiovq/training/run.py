"""The training loop with checkpoints, exports and a log, and its way from a configuration: compose, build, fit."""

from __future__ import annotations

import difflib
import json
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiovq.errors import AudioVQError
from audiovq.io import atomic_write, cache_dir
from audiovq.training.batches import (
    Stopped,
    StopSignals,
    agree,
    broadcast_state,
    pick_device,
    process_group,
    rank,
    wait_for_all,
    world_size,
)
from audiovq.training.states import join, load_state, read_state, state_of, write_state
from audiovq.training.task import Place, Task

log = logging.getLogger("audiovq")


class Run:
    """Trains a task until a number of steps or of minutes is reached.

    In several processes (see `audiovq.training.batches`) each trains on batches of its own; process 0 alone writes.

    Args:
        folder: gets ``state.safetensors`` to resume from, the models ``latest`` and ``best``, and TensorBoard's curves.
        seed: of all random numbers: those of a step follow from seed, step and process.
        max_steps: steps of the whole run; or
        minutes: of training, over all sittings.
        decay: share of the run over which the learning rate falls to zero at the end.
        warmup_steps: over which it rises.
        validate_every, checkpoint_every, log_every: steps; for a run by the clock, seconds.

    Raises:
        AudioVQError: when both or neither of steps and minutes are given.
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
                self._writer = self._open_writer()
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

    def facts(self, task: Task) -> dict[str, Any]:
        """The run's position and its task's name, beside the tensors of a checkpoint."""
        return {"step": self.step, "seconds": self.seconds, "best": self.best, "task": type(task).__name__}

    def save(self, task: Task) -> None:
        """Write everything that resuming needs, see `write_state`."""
        if rank() == 0:
            write_state(self.folder, state_of(task), self.facts(task))
        wait_for_all()

    def resume(self, task: Task) -> bool:
        """Take the state that `save` wrote, if there is one.

        Raises:
            AudioVQError: when it is damaged, or another task's or model's.
        """
        if not (self.folder / "state.safetensors").is_file():
            return False
        tensors, facts = read_state(self.folder)
        self.step, self.seconds, self.best = int(facts["step"]), float(facts["seconds"]), float(facts["best"])
        name = type(task).__name__
        if facts.get("task", name) != name:
            raise AudioVQError(f"{self.folder} holds a run of {facts['task']}, not of {name}: choose another name=")
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
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        speed = f"{audio:.1f} audio-s/s" if audio else f"{pace:.2f} steps/s"
        clock = f"{left // 3600:.0f}h{left % 3600 // 60:02.0f}m left"
        log.info("step %d (%.1f %%)  %s  %s  %s", self.step, 100 * progress, shown, speed, clock)
        values |= {"audio_seconds_per_second": audio} if audio else {"steps_per_second": pace}
        self._add_scalars("train", values | {"rate": self.place().rate})

    def _add_scalars(self, prefix: str, values: Mapping[str, float]) -> None:
        for name, value in values.items() if self._writer is not None else ():
            self._writer.add_scalar(f"{prefix}/{name}", value, self.step)

    def _open_writer(self) -> Any:
        """A TensorBoard ``SummaryWriter`` that goes on at this step; None where the package is missing."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        return SummaryWriter(self.folder / "tensorboard", purge_step=self.step)


def find_configs(folder: str | Path | None = None) -> Path:
    """The hydra tree: ``folder``, or the one of the package: ``audiovq/configs`` installed, ``configs`` in a clone.

    Raises:
        AudioVQError: when there is none.
    """
    package = Path(__file__).resolve().parents[1]
    candidates = [Path(folder)] if folder else [package / "configs", package.parent / "configs"]
    for candidate in candidates:
        if (candidate / "train.yaml").is_file():
            return candidate.resolve()
    raise AudioVQError(f"no train.yaml in {candidates[0]}: give the folder of configurations with --config-dir")


def compose(overrides: Sequence[str], folder: str | Path | None = None) -> Any:
    """The configuration with overrides in hydra's grammar.

    Raises:
        AudioVQError: when an override names nothing that exists.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with initialize_config_dir(str(find_configs(folder)), version_base="1.3"):
        try:
            config = compose("train", list(overrides))
            OmegaConf.resolve(config)
        except (HydraException, OmegaConfBaseException) as error:
            message = str(error).partition("Config search path")[0]
            wrong = re.match(r"Could not override '([^']+)'", message)
            raise AudioVQError(_unknown_key(wrong[1], overrides) if wrong else " ".join(message.split())) from error
    if missing := sorted(OmegaConf.missing_keys(config), key=len):
        raise AudioVQError(f"{missing[0]} is not set: give {missing[0]}=DIR")
    return config


def _unknown_key(key: str, overrides: Sequence[str]) -> str:
    """What to say of an override of a key that does not exist."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf

    parent, _, name = key.rpartition(".")
    try:
        config = compose("train", [override for override in overrides if override.startswith("experiment=")])
        group = OmegaConf.select(config, parent) if parent else config
    except HydraException:
        group = None
    known = [str(setting) for setting in group] if isinstance(group, DictConfig) else []
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {'.'.join(filter(None, [parent, near[0]]))}?" if near else f"+{key}=VALUE adds one"
    return f"no setting is named {key}: {hint}"


def train(config: Any) -> Path:
    """Fit, or go on fitting, what a configuration describes. Returns the run's folder.

    Under ``torchrun`` every process calls it with the same configuration; process 0 writes.

    Raises:
        AudioVQError: when the data is not there, or the checkpoint is another task's.
        Stopped: after a signal that asked to stop; the state is saved.
    """
    from omegaconf import OmegaConf

    torch.set_num_threads(config.training.threads)
    with process_group(pick_device(config.training.device)):
        folder = Path(config.run_dir) if config.run_dir else cache_dir() / "runs" / config.name
        task = make_task(config)
        run = Run(folder, config.seed, **run_settings(config.training))
        results, source = config.training.get("resume_from"), config.training.get("init_from")
        if results and rank() == 0 and not (folder / "state.safetensors").is_file():
            join(Path(results), folder)
        if not (config.training.resume and run.resume(task)) and source:
            task.begin_from(OmegaConf.to_container(source) if OmegaConf.is_config(source) else source)
        if rank() == 0:
            with atomic_write(folder / "config.yaml") as path:
                OmegaConf.save(config, path)
        run.fit(task)
    return folder


def make_task(config: Any) -> Any:
    """The task that a configuration describes, its weights decided by the seed.

    Raises:
        AudioVQError: when the configuration does not fit it.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    torch.manual_seed(config.seed)
    try:
        return instantiate(OmegaConf.create(OmegaConf.to_container(config.task)), _convert_="all", _recursive_=False)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, AudioVQError):
            raise cause from None
        if isinstance(cause, TypeError):  # a setting that the task does not have
            raise AudioVQError(f"task: {cause}") from error
        raise


def run_settings(training: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the ``training`` settings that a `Run` takes."""
    names = ("max_steps", "minutes", "decay", "warmup_steps", "validate_every", "checkpoint_every", "log_every")
    return {name: training[name] for name in names}
