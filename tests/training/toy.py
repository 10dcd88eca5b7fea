"""A task that trains in a second: a linear autoencoder with a codebook in the middle."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from audiovq.quantize import VectorQuantizer
from audiovq.training.batches import rank
from audiovq.training.task import DatasetTask, Place


class Points(Dataset):
    """Item i is decided by i alone."""

    def __init__(self, n: int = 1 << 40) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": torch.from_numpy(np.random.default_rng(index).standard_normal(6).astype(np.float32))}


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(4, 6)
        self.quantizer = VectorQuantizer(4, 8, init_after=2, init_batches=2, decay=0.8)
        self.unused = nn.Linear(2, 2)


class ToyTask(DatasetTask):
    """Args: signals: ``{step: [rank, signal number]}``, signals that processes send themselves in a step."""

    def __init__(self, signals: dict[int, list[int]] | None = None, noise: float = 0.0, **settings: Any) -> None:
        super().__init__(Toy(), **settings)
        self.signals, self.noise = signals or {}, noise

    def datasets(self) -> tuple[Dataset, Dataset]:
        return Points(), Points(self.validation_items)

    def before_step(self, place: Place) -> None:
        sender, number = self.signals.get(place.step, (-1, 0))
        if sender == rank():
            os.kill(os.getpid(), number)

    def decoded(self, model: Any, x: Tensor) -> tuple[Tensor, Any]:
        quantized = model.quantizer(model.encoder(x))
        return model.decoder(quantized.latents), quantized

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        x = batch["x"] + self.noise * torch.randn_like(batch["x"])
        decoded, quantized = self.decoded(model, x)
        error = (decoded - x).square().mean()
        return error + quantized.loss, {"error": error}

    def measures(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": (self.decoded(model, batch["x"])[0] - batch["x"]).square().mean()}

    def preview(self, writer: Any, step: int) -> None:
        writer.add_audio("decoded/0", torch.zeros(1, 160), step, 16000)

    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.json").write_text(json.dumps(self.average.decoder.bias.tolist()))


class OtherTask(ToyTask):
    """The same by another name."""


SIGTERM, SIGINT = int(signal.SIGTERM), int(signal.SIGINT)
