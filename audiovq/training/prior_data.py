"""Batches of coded speech for fitting a prior."""

from __future__ import annotations

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Subset

from audiovq.data.code_stretches import CodeRuns, CodeStretches
from audiovq.training.data import StepSampler


class PriorData(L.LightningDataModule):
    """Training stretches by step, validation runs drawn evenly."""

    def __init__(
        self, train: CodeStretches, validation: CodeRuns, batch_size: int, validation_items: int, max_steps: int
    ) -> None:
        super().__init__()
        self.train_items, self.validation_items = train, validation
        self.batch_size, self.max_steps, self.n_validation = batch_size, max_steps, validation_items
        self.first_step = 0

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        sampler = StepSampler(self.first_step, self.max_steps, self.batch_size, rank, ranks)
        return DataLoader(self.train_items, self.batch_size, sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        n = min(self.n_validation, len(self.validation_items))
        chosen = np.linspace(0, len(self.validation_items) - 1, n).round().astype(int).tolist()
        return DataLoader(Subset(self.validation_items, chosen), self.batch_size)
