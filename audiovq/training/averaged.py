"""What tasks with one loss share: seeded steps, a schedule, a moving average of the weights, exports, progress."""

from __future__ import annotations

import copy
import json
import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from audiovq.files import atomic_write
from audiovq.training.callbacks import ExportBest
from audiovq.training.data import StepSampler
from audiovq.training.schedule import trapezoid

log = logging.getLogger("audiovq")


class StepData(L.LightningDataModule):
    """Training items by step, validation items in order. The place in the data is the step alone."""

    def __init__(self, train: Dataset, validation: Dataset, batch_size: int, max_steps: int) -> None:
        super().__init__()
        self.train_items, self.validation_items = train, validation
        self.batch_size, self.max_steps, self.first_step = batch_size, max_steps, 0

    def train_dataloader(self) -> DataLoader:
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = StepSampler(self.first_step, self.max_steps, self.batch_size, rank, ranks)
        return DataLoader(self.train_items, self.batch_size, sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.validation_items, self.batch_size)


class ExportAverage(ExportBest):
    """The same for a task that knows how it is exported, with all that validation measured."""

    def export(self, task: Any, name: str, loss: float) -> None:
        metrics = task.trainer.callback_metrics
        values = {k[11:]: float(v) for k, v in metrics.items() if k.startswith("validation/")}
        task.export(self.folder / name)
        with atomic_write(self.folder / name / "training.json") as path:
            path.write_text(json.dumps({"step": int(task.step), "validation": values}) + "\n")


class StepProgress(L.Callback):
    """A line in the log every few steps: what the task tells, the pace, time left.

    Args:
        every: steps between lines.
        max_steps: of the run.
        per_step, unit: what a step works through, for the pace: ``{pace * per_step} unit/s``.
    """

    def __init__(self, every: int, max_steps: int, per_step: int = 1, unit: str = "steps") -> None:
        self.every, self.max_steps, self.per_step, self.unit = every, max_steps, per_step, unit

    def on_train_start(self, trainer: L.Trainer, task: Any) -> None:
        self.clock, self.steps = time.perf_counter(), int(task.step)

    def on_validation_end(self, trainer: L.Trainer, task: Any) -> None:
        if trainer.is_global_zero:
            log.info("validation  %s", _told(trainer, "validation/"))
        self.on_train_start(trainer, task)

    def on_train_batch_end(self, trainer: L.Trainer, task: Any, *_: Any) -> None:
        step = int(task.step)
        if step % self.every or step == self.steps or not trainer.is_global_zero:
            return
        pace = (step - self.steps) / (time.perf_counter() - self.clock)
        self.on_train_start(trainer, task)
        left = (self.max_steps - step) / pace
        told, rate = _told(trainer, "train/"), pace * self.per_step * trainer.world_size
        if trainer.logger is not None:
            trainer.logger.log_metrics({f"train/{self.unit}_per_second": rate}, step)
        log.info(
            "step %d/%d  %s  %.4g %s/s  %dh%02dm left",
            step,
            self.max_steps,
            told,
            rate,
            self.unit,
            left // 3600,
            left % 3600 // 60,
        )


def _told(trainer: L.Trainer, prefix: str) -> str:
    values = {k[len(prefix) :]: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
    return "  ".join(f"{name} {value:.4g}" for name, value in sorted(values.items()))


class AveragedTask(L.LightningModule):
    """Minimise a loss. Every step draws its random numbers from ``(seed, step, rank)``, so that resuming is exact.

    Subclasses give `loss`, `measures` and `datasets`, and may override `before_step` and `export`.

    Args:
        model: what is trained.
        learning_rate, warmup_steps, max_steps, decay_steps, weight_decay: AdamW with a trapezoidal schedule.
        average_decay: of the moving average of the weights, which is validated and exported.
        clip: largest norm of the gradient.
        second_beta: AdamW's, of the squares.
    """

    step: Tensor

    def __init__(
        self,
        model: nn.Module,
        learning_rate: float,
        warmup_steps: int,
        max_steps: int,
        decay_steps: int,
        seed: int,
        weight_decay: float = 0.0,
        average_decay: float = 0.999,
        clip: float = 1.0,
        second_beta: float = 0.98,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model: Any = model
        self.average: Any = copy.deepcopy(model).requires_grad_(False)
        self.learning_rate, self.weight_decay, self.clip = learning_rate, weight_decay, clip
        self.schedule = (warmup_steps, max_steps, decay_steps)
        self.average_decay, self.seed, self.second_beta = average_decay, seed, second_beta
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    # -- for subclasses ---------------------------------------------------------------------------------------------

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """What a training step minimises, and scalars to log."""
        raise NotImplementedError

    def measures(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means over a validation batch, ``loss`` among them."""
        raise NotImplementedError

    def datasets(self, validation_items: int) -> tuple[Dataset, Dataset]:
        """Training and validation items."""
        raise NotImplementedError

    def before_step(self, step: int) -> None:
        """Called before each training step."""

    def export(self, folder: Path) -> None:
        """Write the averaged model."""
        self.average.save(folder)

    # -- what a run asks for ----------------------------------------------------------------------------------------

    def data_module(self, config: Any) -> L.LightningDataModule:
        settings = config.training
        train, validation = self.datasets(settings.validation_items)
        return StepData(train, validation, settings.batch_size, settings.max_steps)

    def callbacks(self, config: Any, folder: Path) -> list[L.Callback]:
        return [ExportAverage(folder), StepProgress(config.training.log_every, config.training.max_steps)]

    # -- steps ------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, self.learning_rate, (0.9, self.second_beta), foreach=True)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        step = int(self.step)
        torch.manual_seed((self.seed * 1_000_003 + step) * 4099 + self.global_rank)
        self.before_step(step)
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * trapezoid(step, *self.schedule)
        loss, logged = self.loss(self.model, batch)
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        logged = logged | {"gradient_norm": torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)}
        optimizer.step()
        self.update_average(step)
        self.step += 1
        self.log_dict({f"train/{name}": value.detach().float() for name, value in logged.items()})
        self.log("step", float(step))

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Move the averaged weights towards the current ones; the decay grows, so that the start is forgotten soon."""
        decay = min(self.average_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def on_validation_start(self) -> None:
        """Buffers are taken as they are: codebooks are averages already. Random numbers are the same each time."""
        own = dict(self.average.named_parameters())
        self.average.load_state_dict({**self.model.state_dict(), **own})
        self.average.eval()
        torch.manual_seed(0)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        n = len(next(iter(batch.values())))
        measures = {f"validation/{name}": value for name, value in self.measures(self.average, batch).items()}
        self.log_dict(measures, batch_size=n, sync_dist=True)
        self.log("step", float(self.step))
