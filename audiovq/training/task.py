"""Training tasks: a model with its data, losses and optimizers; with averaged weights; on data sets."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from audiovq.errors import AudioVQError
from audiovq.training.batches import StepBatches, average_gradients, ordered_batches, pick_device, use_bfloat16


@dataclass(frozen=True)
class Place:
    """A run's position: steps done, the share of the run that is done (0 to 1), and the factor of learning rates."""

    step: int
    progress: float
    rate: float


class Task(nn.Module):
    """A model with its data, losses and optimizers, trained by a `Run`.

    Everything that a resumed run needs is in the state dict and in ``optimizers``.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or another one of torch's.
        precision: ``auto``, ``float32`` or ``bfloat16``, which is used where that is safe.

    Attributes:
        optimizers, rates: optimizers and their learning rates by name.
        audio_seconds: of a step of one process, for the log.
    """

    optimizers: dict[str, torch.optim.Optimizer]
    rates: dict[str, float]
    audio_seconds: float = 0.0

    def __init__(self, device: str = "cpu", precision: str = "float32") -> None:
        super().__init__()
        self.device = pick_device(device)
        self.mixed = use_bfloat16(precision, self.device)

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
        """One step of an optimizer on ``loss``, its gradient averaged over the processes. Returns the gradient's norm.

        ``rate`` is a factor of the learning rate, ``clip`` the largest norm, of all its parameters together.
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


class EMATask(Task):
    """A task with one model, which validates and exports the exponential moving average (EMA) of its weights.

    Args:
        model: is trained.
        learning_rate, weight_decay: of AdamW; vectors do not decay.
        batch_size: items of a step of one process.
        validation_items: for the subclasses.
        seed: of the data.
        average_decay: of the moving average.
        device, precision: see `Task`.
    """

    clip = 1.0
    """Largest norm of the gradient."""

    def __init__(
        self,
        model: nn.Module,
        learning_rate: float,
        batch_size: int,
        validation_items: int = 0,
        seed: int = 0,
        weight_decay: float = 0.0,
        average_decay: float = 0.999,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        super().__init__(device, precision)
        self.model: Any = model
        self.average: Any = copy.deepcopy(model).requires_grad_(False)
        self.to(self.device)
        self.seed, self.batch_size, self.validation_items = seed, batch_size, validation_items
        self.average_decay = average_decay
        kernels, vectors = ([p for p in model.parameters() if (p.dim() > 1) == many] for many in (True, False))
        groups = [{"params": kernels, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizers = {"model": torch.optim.AdamW(groups, learning_rate, (0.9, 0.98), foreach=True)}
        self.rates = {"model": learning_rate}

    def export(self, folder: Path) -> None:
        self.average.save(folder)

    def improve(self, loss: Tensor, place: Place) -> Tensor:
        """Update the model and then the average. Returns the norm of the gradient."""
        norm = self.update("model", loss, place.rate, self.clip)
        update_average(self.average, self.model, place.step, self.average_decay)
        return norm


class DatasetTask(EMATask):
    """An `EMATask` on data sets whose items are dictionaries of tensors; subclasses give the loss and the data sets.

    Args:
        workers: processes that prepare items.
        settings: see `EMATask`.
    """

    def __init__(self, model: nn.Module, workers: int = 0, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.workers = workers

    @abstractmethod
    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss of a batch, and scalars to log."""

    @abstractmethod
    def measures(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means over a validation batch, ``loss`` among them."""

    @abstractmethod
    def datasets(self) -> tuple[Dataset, Dataset]:
        """Training items, of which there is one for any index, and validation items."""

    def before_step(self, place: Place) -> None:
        """Called before each training step."""

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
        norm = self.improve(loss, place)
        return {name: value.detach() for name, value in logged.items()} | {"gradient": norm}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        totals: dict[str, float] = {}
        count = 0
        for batch in self.validation_batches():
            n = len(next(iter(batch.values())))
            with self.autocast():
                measures = self.measures(self.average, batch)
            for name, value in measures.items():
                totals[name] = totals.get(name, 0.0) + n * float(value)
            count += n
        return {name: total / count for name, total in totals.items()}

    def validation_batches(self) -> Iterable[dict[str, Tensor]]:
        """The validation items, after the average has been made ready for them."""
        copy_buffers(self.average, self.model)
        self.average.eval()
        torch.manual_seed(0)
        return ordered_batches(self.data[1], self.batch_size, self.device)


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


def add_previews(writer: Any, step: int, reference: Iterable[Tensor], decoded: Iterable[Tensor], rate: int) -> None:
    """Audio and, with matplotlib, spectrogram of each reference and its decoded waveform, both (T,) at ``rate`` Hz."""
    try:
        from matplotlib import figure as drawing
    except ImportError:
        drawing = None  # type: ignore[assignment]
    for i, pair in enumerate(zip(reference, decoded, strict=True)):
        signals = {name: signal.float().cpu() for name, signal in zip(("reference", "decoded"), pair, strict=True)}
        for name, signal in signals.items():
            writer.add_audio(f"{name}/{i}", signal.clamp(-1, 1)[None], step, rate)
        if drawing is None:
            continue
        figure = drawing.Figure(figsize=(8, 5), layout="constrained")
        for axis, (name, signal) in zip(figure.subplots(2), signals.items(), strict=True):
            spectrum = torch.stft(signal, 512, 128, window=torch.hann_window(512), return_complex=True).abs()
            shown = {"extent": (0, len(signal) / rate, 0, rate / 2000), "vmin": -50, "vmax": 40, "cmap": "magma"}
            axis.imshow((20 * torch.log10(spectrum + 1e-3)).numpy(), origin="lower", aspect="auto", **shown)
            axis.set(title=name, ylabel="kHz")
        writer.add_figure(f"spectrogram/{i}", figure, step)
