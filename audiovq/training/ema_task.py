"""The training task of one model with one loss, whose weights are averaged over the steps."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from audiovq.training.batches import StepBatches, ordered_batches, pick_device, use_bfloat16
from audiovq.training.loop import Place, Task, copy_buffers, parameter_groups, update_average


class EMATask(Task):
    """Minimise a loss; validate and export the exponential moving average (EMA) of the weights.

    Subclasses give `loss`, `measures` and `datasets`, and may override `before_step` and `export`.

    Args:
        model: what is trained.
        learning_rate, weight_decay: of AdamW.
        seed: of the data.
        batch_size: items of a step of one process.
        validation_items: items to validate on.
        average_decay: of the moving average.
        clip: largest norm of the gradient.
        second_beta: AdamW's, of the squares.
        workers: processes that prepare items.
        device: ``auto``, ``cpu``, ``cuda`` or another one of torch's.
        precision: ``auto``, ``float32`` or ``bfloat16``.
    """

    def __init__(
        self,
        model: nn.Module,
        learning_rate: float,
        seed: int,
        batch_size: int,
        validation_items: int,
        weight_decay: float = 0.0,
        average_decay: float = 0.999,
        clip: float = 1.0,
        second_beta: float = 0.98,
        workers: int = 0,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        super().__init__()
        self.device = pick_device(device)
        self.mixed = use_bfloat16(precision, self.device)
        self.model: Any = model
        self.average: Any = copy.deepcopy(model).requires_grad_(False)
        self.to(self.device)
        self.seed, self.batch_size, self.validation_items, self.workers = seed, batch_size, validation_items, workers
        self.average_decay, self.clip = average_decay, clip
        groups = parameter_groups(self.model.parameters(), weight_decay)
        self.optimizers = {"model": torch.optim.AdamW(groups, learning_rate, (0.9, second_beta), foreach=True)}
        self.rates = {"model": learning_rate}

    # -- for subclasses ---------------------------------------------------------------------------------------------

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss of a batch, and scalars to log."""
        raise NotImplementedError

    def measures(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means over a validation batch, ``loss`` among them."""
        raise NotImplementedError

    def datasets(self) -> tuple[Dataset, Dataset]:
        """Training items, of which there is one for any index, and validation items."""
        raise NotImplementedError

    def before_step(self, place: Place) -> None:
        """Called before each training step."""

    def export(self, folder: Path) -> None:
        self.average.save(folder)

    # -- steps ------------------------------------------------------------------------------------------------------

    @cached_property
    def data(self) -> tuple[StepBatches, Dataset]:
        """Training batches and validation items; opened when they are first asked for."""
        train, validation = self.datasets()
        return StepBatches(train, self.batch_size, self.workers, self.device), validation

    def training_step(self, place: Place) -> dict[str, Tensor]:
        self.model.train()
        self.before_step(place)
        batch = self.data[0].at(place.step)
        with self.autocast():
            loss, logged = self.loss(self.model, batch)
        norm = self.update("model", loss, place.rate, self.clip)
        update_average(self.average, self.model, place.step, self.average_decay)
        return {name: value.detach() for name, value in logged.items()} | {"gradient": norm}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        copy_buffers(self.average, self.model)
        self.average.eval()
        torch.manual_seed(0)
        totals: dict[str, float] = {}
        count = 0
        for batch in ordered_batches(self.data[1], self.batch_size, self.device):
            n = len(next(iter(batch.values())))
            with self.autocast():
                measures = self.measures(self.average, batch)
            for name, value in measures.items():
                totals[name] = totals.get(name, 0.0) + n * float(value)
            count += n
        return {name: total / count for name, total in totals.items()}
