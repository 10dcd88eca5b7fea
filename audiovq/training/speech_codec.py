"""The training task of the speech codec of version 0.1."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.quantize import Quantized
from audiovq.speech.codec import SpeechCodec
from audiovq.training.batches import StepBatches, ordered_batches
from audiovq.training.data import crop_samples, speech_crops
from audiovq.training.discriminators import MultiResolutionDiscriminator
from audiovq.training.loop import Place, Task, copy_buffers, update_average
from audiovq.training.losses import (
    ComplexSTFTLoss,
    EnvelopeCorrelationLoss,
    MultiResolutionMelLoss,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    relative_waveform_loss,
)
from audiovq.training.precision import pick_device, use_bfloat16
from audiovq.training.previews import add_previews
from audiovq.training.teacher import TeacherLoss
from audiovq.training.warm_start import PARTS, warm_start

RECONSTRUCTION = ("mel", "complex", "magnitude", "waveform", "envelope")
"""Losses that compare decoded speech with the recording."""


def _adamw(parameters: Iterable[Tensor], rate: float, weight_decay: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, rate, (0.8, 0.99), weight_decay=weight_decay, foreach=True)


class SpeechCodecTask(Task):
    """Reconstruction losses from the first step, discriminators from ``adversarial_start`` on.

    Args:
        model: constructor arguments of `SpeechCodec`.
        corpora, language_weights, crop_seconds, other_seconds, batch_size, validation_items: see `speech_crops`.
        learning_rate, weight_decay: of AdamW.
        average_decay: decay of the moving average of the weights that is validated and exported.
        weights: of the losses ``mel, complex, magnitude, waveform, envelope, quantizer, adversarial, feature`` and
            ``teacher`` (see `audiovq.training.teacher`; its features are made before training begins).
        adversarial_start: first step with discriminators; None to leave them out.
        adversarial_samples: samples of each item that they see, a random stretch.
        discriminator: constructor arguments of `MultiResolutionDiscriminator`.
        frozen: parts of the codec that stay as they are: ``encoder, quantizer, speaker_encoder, decoder``. With all but
            the decoder frozen, codes keep their meaning and files stay readable.
        workers, device, precision: see `EMATask`.

    Without weight on a reconstruction loss nothing is decoded: encoder and codebooks learn from the teacher alone.
    """

    def __init__(
        self,
        model: dict[str, Any],
        corpora: Sequence[Any],
        learning_rate: float,
        weight_decay: float,
        average_decay: float,
        seed: int,
        batch_size: int,
        validation_items: int,
        crop_seconds: float,
        other_seconds: float,
        weights: dict[str, float],
        adversarial_start: int | None,
        adversarial_samples: int,
        discriminator: dict[str, Any],
        adversarial_rate: float,
        frozen: Sequence[str] = (),
        language_weights: Mapping[str, float] | None = None,
        workers: int = 0,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        super().__init__()
        self.device = pick_device(device)
        self.mixed = use_bfloat16(precision, self.device)
        self.codec = SpeechCodec(**model)
        if unknown := set(frozen) - set(PARTS):
            raise AudioVQError(f"task.frozen names parts of the codec, and {min(unknown)} is none")
        self.frozen, self.weights, self.average_decay = frozen, weights, average_decay
        for name in frozen:
            getattr(self.codec, name).requires_grad_(False)
        self.average = copy.deepcopy(self.codec).requires_grad_(False)
        self.discriminator = MultiResolutionDiscriminator(**discriminator) if adversarial_start is not None else None
        rate = self.codec.sample_rate
        self.mel_loss, self.stft_loss = MultiResolutionMelLoss(sample_rate=rate), ComplexSTFTLoss()
        self.envelope_loss = EnvelopeCorrelationLoss(rate)
        self.teacher = TeacherLoss(self.codec.encoder.latent_dim) if weights.get("teacher", 0) else None
        self.adversarial_start, self.adversarial_samples = adversarial_start, adversarial_samples
        self.to(self.device)
        with_teacher = list(self.teacher.parameters()) if self.teacher is not None else []
        trained = [p for p in self.codec.parameters() if p.requires_grad] + with_teacher
        self.optimizers = {"codec": _adamw(trained, learning_rate, weight_decay)}
        self.rates = {"codec": learning_rate}
        if self.discriminator is not None:
            self.optimizers["discriminator"] = _adamw(self.discriminator.parameters(), adversarial_rate)
            self.rates["discriminator"] = adversarial_rate
        self.batch_size, self.workers = batch_size, workers
        self._crops: dict[str, Any] = {
            "corpora": corpora,
            "crop_seconds": crop_seconds,
            "other_seconds": other_seconds,
            "validation_items": validation_items,
            "seed": seed,
            "with_teacher": self.teacher is not None,
            "language_weights": language_weights,
        }
        self.audio_seconds = crop_samples(self.codec, crop_seconds) / rate * batch_size

    @cached_property
    def data(self) -> tuple[StepBatches, Dataset]:
        """Training batches and validation crops; opened when they are first asked for."""
        train, validation = speech_crops(self.codec, **self._crops)
        return StepBatches(train, self.batch_size, self.workers, self.device), validation

    def begin_from(self, source: str | Mapping[str, str]) -> None:
        """Take the weights of a model folder or a bundled model, or of one for each part; see
        `audiovq.training.warm_start`."""
        warm_start(self.codec, source)
        self.average.load_state_dict(self.codec.state_dict())

    def training_step(self, place: Place) -> dict[str, Tensor]:
        self.codec.train()
        if "quantizer" in self.frozen:
            self.codec.quantizer.eval()  # else its statistics would move on
        batch = self.data[0].at(place.step)
        waveform = batch["waveform"]
        with self.autocast():
            decoded, quantized = self.code(batch)
            loss, logged = self.reconstruction_loss(decoded, waveform)
            if self.teacher is not None:
                logged["teacher"] = self.teacher(quantized.latents, batch["taught"])
                loss = loss + self.weights["teacher"] * logged["teacher"]
        logged["quantizer"] = quantized.loss
        loss = loss + self.weights["quantizer"] * quantized.loss
        if self.adversarial_start is not None and place.step >= self.adversarial_start:
            adversarial, terms = self.adversarial_step(waveform, decoded, place.rate)
            loss, logged = loss + adversarial, logged | terms
        logged["gradient"] = self.update("codec", loss, place.rate, 5.0)
        update_average(self.average, self.codec, place.step, self.average_decay)
        logged |= {name: value.float().mean() for name, value in quantized.metrics.items()}
        return {name: value.detach() for name, value in logged.items()}

    def speaker_input(self, batch: dict[str, Tensor]) -> Tensor:
        """The speaker of each item: a number for a table, another stretch of speech else."""
        return batch["speaker"] if self.codec.has_speaker_table else batch["other"]

    def code(self, batch: dict[str, Tensor]) -> tuple[Tensor, Quantized]:
        """Encode a training batch, and decode it where a loss asks for that."""
        if not any(self.weights.get(name, 0) for name in RECONSTRUCTION):
            return batch["waveform"], self.codec.quantizer(self.codec.encoder(batch["waveform"]))
        return self.codec(batch["waveform"], self.speaker_input(batch))

    def reconstruction_loss(self, decoded: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the spectral losses, and each of them; those without a weight are not computed."""
        wanted = {name for name, weight in self.weights.items() if weight}
        terms: dict[str, Tensor] = {}
        with torch.autocast(target.device.type, enabled=False):
            if "mel" in wanted:
                terms["mel"] = self.mel_loss(decoded, target)
            if wanted & {"complex", "magnitude", "waveform"}:
                terms["complex"], terms["magnitude"] = self.stft_loss(decoded, target)
                terms["waveform"] = relative_waveform_loss(decoded, target)
            if "envelope" in wanted:
                terms["envelope"] = self.envelope_loss(decoded, target)
        weighed = [self.weights[name] * term for name, term in terms.items()]
        return torch.stack(weighed).sum() if weighed else decoded.new_zeros(()), terms

    def adversarial_step(self, real: Tensor, fake: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Update the discriminators, then give the decoder's loss against them. Waveforms (B, 1, T)."""
        assert self.discriminator is not None
        n, room = len(real), real.shape[-1] - self.adversarial_samples
        if room > 0:
            start = int(torch.randint(room, ()))
            real = real[..., start : start + self.adversarial_samples]
            fake = fake[..., start : start + self.adversarial_samples]
        self.discriminator.requires_grad_(True)
        with self.autocast():
            scores, _ = self.discriminator(torch.cat([real, fake.detach()]))
            loss = discriminator_loss([s[:n] for s in scores], [s[n:] for s in scores])
        self.update("discriminator", loss, rate, 5.0)
        self.discriminator.requires_grad_(False)
        with self.autocast():
            with torch.no_grad():
                _, real_features = self.discriminator(real)
            scores, features = self.discriminator(fake)
            adversarial, matching = generator_loss(scores), feature_matching_loss(real_features, features)
        total = self.weights["adversarial"] * adversarial + self.weights["feature"] * matching
        return total, {"discriminator": loss, "adversarial": adversarial, "feature": matching}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        copy_buffers(self.average, self.codec)
        codec = self.average.eval()
        totals: dict[str, float] = {"loss": 0.0}
        count = 0
        for batch in ordered_batches(self.data[1], self.batch_size, self.device):
            size = len(batch["waveform"])
            for n in sorted({1, 2, 4, codec.n_codebooks} & set(range(1, codec.n_codebooks + 1))):
                with self.autocast():
                    decoded, quantized = codec(batch["waveform"], self.speaker_input(batch), n_codebooks=n)
                    loss, terms = self.reconstruction_loss(decoded, batch["waveform"])
                    if self.teacher is not None:
                        terms["teacher"] = self.teacher(quantized.latents, batch["taught"])
                        loss = loss + self.weights["teacher"] * terms["teacher"]
                if n > 1 or codec.n_codebooks == 1:
                    totals["loss"] += size * float(loss)
                for name, value in terms.items():
                    totals[f"{name}_{n}"] = totals.get(f"{name}_{n}", 0.0) + size * float(value)
            count += size
        return {name: total / count for name, total in totals.items()}

    def preview(self, writer: Any, step: int) -> None:
        batch = {k: v[:3] for k, v in next(ordered_batches(self.data[1], self.batch_size, self.device)).items()}
        decoded, _ = self.average(batch["waveform"], self.speaker_input(batch), self.codec.default_n_codebooks)
        add_previews(writer, step, batch["waveform"][:, 0], decoded[:, 0], self.codec.sample_rate)

    def export(self, folder: Path) -> None:
        save_weights(self.average, folder)
