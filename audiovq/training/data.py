"""Batches for a trainer: training crops by step, validation crops that never change."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Sampler, Subset

from audiovq.data.corpora import open_corpora
from audiovq.data.crops import CropDataset
from audiovq.data.partners import PartneredCrops
from audiovq.data.perturb import Perturbation
from audiovq.data.teacher import TeacherFeatures, teacher_features
from audiovq.data.utterance import Utterance
from audiovq.data.virtual import VirtualVoices

log = logging.getLogger("audiovq")


class StepSampler(Sampler[int]):
    """Indices of one process from step ``first`` to ``last``: step s takes ``s * batch * ranks`` and on.

    Its length is that of the whole run, steps before ``first`` included: a resumed trainer counts those as done.
    """

    def __init__(self, first: int, last: int, batch_size: int, rank: int = 0, ranks: int = 1) -> None:
        self.first, self.last, self.batch_size, self.rank, self.ranks = first, last, batch_size, rank, ranks

    def __len__(self) -> int:
        return self.last * self.batch_size

    def __iter__(self) -> Iterator[int]:
        for step in range(self.first, self.last):
            start = (step * self.ranks + self.rank) * self.batch_size
            yield from range(start, start + self.batch_size)


class SpeechCrops(L.LightningDataModule):
    """Crops of one or several corpora. The place in the data is the step alone, so that resuming continues exactly."""

    def __init__(
        self,
        corpora: list[dict[str, Any]],
        sample_rate: int,
        hop_length: int,
        batch_size: int,
        crop_seconds: float,
        other_seconds: float,
        validation_items: int,
        max_steps: int,
        seed: int,
        perturbation: dict[str, Any] | None = None,
        conversion_share: float = 0.0,
        virtual: dict[str, Any] | None = None,
        partners: dict[str, Any] | None = None,
        taught: bool = False,
        language_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.language_weights = language_weights
        self.taught, self._told = taught, 0
        self.partners = partners or {}
        self.virtual = VirtualVoices(**virtual) if virtual else None
        self.conversion_share = conversion_share
        self.perturbation = Perturbation(**perturbation) if perturbation else None
        self.corpora, self.batch_size, self.max_steps, self.seed = corpora, batch_size, max_steps, seed
        self.crop = round(crop_seconds * sample_rate / hop_length) * hop_length
        self.other = round(other_seconds * sample_rate)
        self.crop_seconds = self.crop / sample_rate
        self.validation_items = validation_items
        self.first_step = 0

    def setup(self, stage: str | None = None) -> None:
        train = open_corpora(self.corpora, "train")
        validation = open_corpora(self.corpora, "validation")
        crops = CropDataset(
            train,
            self.crop,
            self.other,
            seed=self.seed,
            gain_db=(-12.0, 6.0),
            perturbation=self.perturbation,
            virtual=self.virtual,
            teacher=self._teacher(train),
            language_weights=self.language_weights,
        )
        self.train = PartneredCrops(crops, self.conversion_share, **self.partners) if self.conversion_share else crops
        self.validation = CropDataset(
            validation,
            2 * self.crop,
            self.other,
            seed=0,
            perturbation=self.perturbation,
            teacher=self._teacher(validation, fitted_on=train),
        )

    def _teacher(
        self, utterances: Sequence[Utterance], fitted_on: Sequence[Utterance] | None = None
    ) -> TeacherFeatures | None:
        if not self.taught or not utterances:
            return None

        def tell(done: int, total: int) -> None:
            if done == total or done * 20 // total > self._told:
                self._told = done * 20 // total
                log.info("the teacher has heard %d of %d minutes", done // 960_000, total // 960_000)

        self._told = 0
        return teacher_features(utterances, tell, fitted_on)

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        sampler = StepSampler(self.first_step, self.max_steps, self.batch_size, rank, ranks)
        return DataLoader(self.train, self.batch_size, sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Subset(self.validation, range(self.validation_items)), self.batch_size)
