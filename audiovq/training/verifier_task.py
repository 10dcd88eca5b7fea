"""Training the speaker verifier that a converter is judged by while it trains."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from audiovq.speech.codec import SpeechCodec
from audiovq.training.callbacks import Progress
from audiovq.training.data import SpeechCrops
from audiovq.training.schedule import trapezoid
from audiovq.training.verifier import SpeakerVerifier

log = logging.getLogger("audiovq")


class VerifierTask(L.LightningModule):
    """Tell the training speakers apart, on clean stretches and on stretches that a codec has coded.

    Without the coded ones the verifier would take a codec's artefacts for another voice, and a converter would learn
    to please it rather than to sound like somebody.

    Args:
        verifier: arguments of `SpeakerVerifier` but for the speakers.
        codec: a model's name or folder; None for the bundled one.
        coded_share: share of the stretches that are coded, with a random number of codebooks.
        learning_rate, warmup_steps, max_steps, decay_steps, weight_decay: AdamW with a trapezoidal schedule.
    """

    def __init__(
        self,
        verifier: dict[str, Any],
        codec: str | None,
        coded_share: float,
        learning_rate: float,
        warmup_steps: int,
        max_steps: int,
        decay_steps: int,
        weight_decay: float,
        seed: int,
    ) -> None:
        super().__init__()
        self._codec = [SpeechCodec.from_pretrained(codec).requires_grad_(False)]  # in a list: not part of the state
        self.settings, self.coded_share = verifier, coded_share
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed
        self.schedule = (warmup_steps, max_steps, decay_steps)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    step: Tensor

    def data_module(self, config: Any) -> SpeechCrops:
        """Crops of speech, and another crop of the same speaker with each."""
        from omegaconf import OmegaConf

        settings, corpora, codec = config.training, OmegaConf.to_container(config.data.corpora), self._codec[0]
        assert isinstance(corpora, list)
        data = SpeechCrops(
            corpora,
            codec.sample_rate,
            codec.hop_length,
            settings.batch_size,
            settings.crop_seconds,
            settings.crop_seconds,
            settings.validation_items,
            settings.max_steps,
            config.seed,
        )
        data.setup()
        self.verifier = SpeakerVerifier(data.train.speakers, **self.settings)
        self.validation_speakers = data.validation.speakers
        return data

    def callbacks(self, config: Any, folder: Path) -> list[L.Callback]:
        """The log, and the verifier's export at each validation."""
        settings = config.training
        return [
            Progress(settings.log_every, 2 * settings.crop_seconds * settings.batch_size, settings.max_steps),
            Export(folder),
        ]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.verifier.parameters(), self.learning_rate, weight_decay=self.weight_decay)

    def stretches(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """All stretches (2B, 1, T) and who speaks (2B,)."""
        n = min(batch["waveform"].shape[-1], batch["other"].shape[-1])
        waveform = torch.cat([batch["waveform"][..., :n], batch["other"][..., :n]])
        return waveform, torch.cat([batch["speaker"], batch["speaker"]])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        step = int(self.step)
        torch.manual_seed((self.seed * 1_000_003 + step) * 4099 + self.global_rank)
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = self.learning_rate * trapezoid(step, *self.schedule)
        waveform, speaker = self.stretches(batch)
        waveform = self.coded(waveform)
        loss = self.verifier.loss(self.verifier(waveform), speaker)
        self.step += 1
        self.log_dict({"train/bits": loss.detach()})
        self.log("step", float(self.step))
        return loss

    @torch.no_grad()
    def coded(self, waveform: Tensor) -> Tensor:
        """The stretches (B, 1, T), a random choice of them coded and decoded."""
        n = round(self.coded_share * len(waveform))
        if not n:
            return waveform
        codec = self._codec[0]
        chosen = torch.randperm(len(waveform))[:n]
        n_codebooks = 1 + int(torch.randint(codec.n_codebooks, ()))
        decoded, _ = codec(waveform[chosen], waveform[chosen], n_codebooks=n_codebooks)
        waveform = waveform.clone()
        waveform[chosen] = decoded.float()
        return waveform

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        waveform, speaker = self.stretches(batch)
        own = self.verifier.speakers
        known = torch.tensor([own.index(name) if name in own else -1 for name in self.validation_speakers])
        wanted = known[speaker]
        vectors = self.verifier(waveform)[wanted >= 0]
        wanted = wanted[wanted >= 0]
        right = (self.verifier.cosines(vectors).argmax(1) == wanted).float().mean()
        self.log_dict({"validation/right": right, "validation/loss": self.verifier.loss(vectors, wanted)})


class Export(L.Callback):
    """The verifier as a folder ``latest`` in the run's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "latest"

    def on_validation_end(self, trainer: L.Trainer, task: Any) -> None:
        task.verifier.save(self.folder)

    def on_train_end(self, trainer: L.Trainer, task: Any) -> None:
        task.verifier.save(self.folder)
