"""The training task of the speech codec."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from audiovq.errors import AudioVQError
from audiovq.quantize import Quantized
from audiovq.speech.codec import SpeechCodec
from audiovq.training.discriminators import MultiResolutionDiscriminator
from audiovq.training.losses import (
    ComplexSTFTLoss,
    EnvelopeCorrelationLoss,
    MultiResolutionMelLoss,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    relative_waveform_loss,
)
from audiovq.training.schedule import trapezoid
from audiovq.training.teacher import TeacherLoss
from audiovq.training.warm_start import PARTS, warm_start

RECONSTRUCTION = ("mel", "complex", "magnitude", "waveform", "envelope")
"""Losses that hold what is decoded against the recording, frame by frame."""


class SpeechCodecTask(L.LightningModule):
    """Reconstruction losses from the first step, discriminators from ``adversarial_start`` on.

    Every step draws its random numbers from ``(seed, step, rank)``, so that a resumed run continues exactly.

    Args:
        model: constructor arguments of `SpeechCodec`.
        learning_rate, warmup_steps, max_steps, decay_steps, weight_decay: AdamW with a trapezoidal schedule.
        average_decay: decay of the moving average of the weights that is validated and exported.
        weights: of the losses ``mel, complex, magnitude, waveform, envelope, quantizer, adversarial, feature`` and
            ``teacher`` (see `audiovq.training.teacher`; its features are made before training begins).
        adversarial_start: first step with discriminators; None to leave them out.
        adversarial_samples: samples of each item they look at, a random stretch.
        discriminator: constructor arguments of `MultiResolutionDiscriminator`.
        frozen: parts of the codec that stay as they are: ``encoder, quantizer, speaker_encoder, decoder``. With all but
            the decoder frozen, codes keep their meaning and files stay readable.

    Without weight on a reconstruction loss nothing is decoded: encoder and codebooks learn from the teacher alone.
    """

    def __init__(
        self,
        model: dict[str, Any],
        learning_rate: float,
        warmup_steps: int,
        max_steps: int,
        decay_steps: int,
        weight_decay: float,
        average_decay: float,
        seed: int,
        weights: dict[str, float],
        adversarial_start: int | None,
        adversarial_samples: int,
        discriminator: dict[str, Any],
        discriminator_learning_rate: float,
        frozen: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.codec = SpeechCodec(**model)
        unknown = set(frozen) - set(PARTS)
        if unknown:
            raise AudioVQError(f"task.frozen names parts of the codec, and {min(unknown)} is none")
        self.frozen = frozen
        for name in frozen:
            getattr(self.codec, name).requires_grad_(False)
        self.rebuilds = any(weights.get(name, 0) for name in RECONSTRUCTION)
        self.average = copy.deepcopy(self.codec).requires_grad_(False)
        self.average_decay = average_decay
        self.discriminator = MultiResolutionDiscriminator(**discriminator) if adversarial_start is not None else None
        self.mel_loss, self.stft_loss = MultiResolutionMelLoss(), ComplexSTFTLoss()
        self.envelope_loss = EnvelopeCorrelationLoss()
        self.teacher = TeacherLoss(self.codec.encoder.latent_dim) if weights.get("teacher", 0) else None
        self.learning_rate, self.discriminator_learning_rate = learning_rate, discriminator_learning_rate
        self.schedule = (warmup_steps, max_steps, decay_steps)
        self.weight_decay, self.seed, self.weights = weight_decay, seed, weights
        self.adversarial_start, self.adversarial_samples = adversarial_start, adversarial_samples
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    step: Tensor

    def warm_start(self, source: str | Mapping[str, str]) -> None:
        """Begin from the weights of a model folder or a bundled model, or of one for each part; see
        `audiovq.training.warm_start`."""
        warm_start(self.codec, source)
        self.average.load_state_dict(self.codec.state_dict())

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        parameters = self.trained_parameters()
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(parameters, self.learning_rate, (0.8, 0.99), weight_decay=self.weight_decay, foreach=True)
        ]
        if self.discriminator is not None:
            optimizers.append(
                torch.optim.AdamW(
                    self.discriminator.parameters(), self.discriminator_learning_rate, (0.8, 0.99), foreach=True
                )
            )
        return optimizers

    def learning_rates(self) -> list[float]:
        """Of each optimizer, before the schedule."""
        return [self.learning_rate] + [self.discriminator_learning_rate] * (self.discriminator is not None)

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """What the first optimizer moves."""
        taught = list(self.teacher.parameters()) if self.teacher is not None else []
        return [p for p in self.codec.parameters() if p.requires_grad] + taught

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        step = int(self.step)
        torch.manual_seed((self.seed * 1_000_003 + step) * 4099 + self.global_rank)
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer, rate in zip(optimizers, self.learning_rates(), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * trapezoid(step, *self.schedule)

        waveform = batch["waveform"]
        decoded, quantized = self.code(batch)
        loss, logged = self.reconstruction_loss(decoded, waveform, batch.get("moved"))
        loss = loss + self.weights["quantizer"] * quantized.loss
        logged["quantizer_loss"] = quantized.loss
        if self.adversarial_start is not None and step >= self.adversarial_start:
            adversarial, terms = self.adversarial_step(waveform, decoded, optimizers[1], batch.get("converted"))
            loss = loss + adversarial
            logged |= terms
        more, terms = self.more_losses(batch, quantized)
        loss, logged = loss + more, {**logged, **terms}
        optimizers[0].zero_grad(set_to_none=True)
        self.manual_backward(loss)
        logged["gradient_norm"] = torch.nn.utils.clip_grad_norm_(self.codec.parameters(), 5.0)
        optimizers[0].step()
        self.update_average(step)
        self.step += 1
        logged = {f"train/{k}": v.detach() for k, v in logged.items()}
        logged |= {f"codebook/{k}": v.float().mean() for k, v in quantized.metrics.items()}
        logged["train/learning_rate"] = torch.tensor(optimizers[0].param_groups[0]["lr"])
        self.log_dict(logged)
        self.log("step", float(step))
        self.latest = {k: float(v) for k, v in logged.items()} if step % 50 == 0 else getattr(self, "latest", {})

    def speaker_input(self, batch: dict[str, Tensor]) -> Tensor:
        """What tells the codec who speaks: a number for a table, another stretch of speech else."""
        return batch["speaker"] if self.codec.has_speaker_table else batch["other"]

    def heard(self, batch: dict[str, Tensor]) -> Tensor:
        """What the encoder gets, (B, 1, T)."""
        return batch["waveform"]

    def code(self, batch: dict[str, Tensor]) -> tuple[Tensor, Quantized]:
        """Encode a training batch, and decode it where a loss asks for that."""
        if "quantizer" in self.frozen:
            self.codec.quantizer.eval()  # else its statistics would move on
        if not self.rebuilds:
            return batch["waveform"], self.codec.quantizer(self.codec.encoder(self.heard(batch)))
        return self.codec(self.heard(batch), self.speaker_input(batch))

    def more_losses(self, batch: dict[str, Tensor], quantized: Quantized) -> tuple[Tensor, dict[str, Tensor]]:
        """What else is asked of a training step: the weighted sum, and each term."""
        if self.teacher is None:
            return quantized.loss.new_zeros(()), {}
        loss = self.teacher(quantized.latents, batch["taught"])
        return self.weights["teacher"] * loss, {"teacher": loss}

    def reconstruction_loss(
        self, decoded: Tensor, target: Tensor, moved: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the spectral losses, and each of them; those that nothing weighs are not computed.

        ``moved`` (B,) bool: items whose phase cannot be known, left out of the losses that look at it.
        """
        wanted = {name for name, weight in self.weights.items() if weight}
        terms: dict[str, Tensor] = {}
        with torch.autocast(target.device.type, enabled=False):
            if "mel" in wanted:
                terms["mel"] = self.mel_loss(decoded, target)
            if wanted & {"complex", "magnitude", "waveform"}:
                parts = self.parted_losses(decoded, target, moved)
                terms |= dict(zip(("complex", "magnitude", "waveform"), parts, strict=True))
            if "envelope" in wanted:
                terms["envelope"] = self.envelope_loss(decoded, target)
        weighed = [self.weights[name] * term for name, term in terms.items()]
        return torch.stack(weighed).sum() if weighed else decoded.new_zeros(()), terms

    def parted_losses(self, decoded: Tensor, target: Tensor, moved: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Complex, magnitude and waveform distance; items that were moved count in the second alone."""
        if moved is None or not bool(moved.any()):
            return *self.stft_loss(decoded, target), relative_waveform_loss(decoded, target)
        share = moved.float().mean()
        magnitude = share * self.stft_loss(decoded[moved], target[moved])[1]
        if bool(moved.all()):
            return torch.zeros_like(share), magnitude, torch.zeros_like(share)
        decoded, target = decoded[~moved], target[~moved]
        phase_aware, own_magnitude = self.stft_loss(decoded, target)
        waveform = relative_waveform_loss(decoded, target)
        return (1 - share) * phase_aware, magnitude + (1 - share) * own_magnitude, (1 - share) * waveform

    def adversarial_step(
        self, real: Tensor, fake: Tensor, optimizer: Any, others: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Update the discriminators, then give the decoder's loss against them.

        ``fake`` (B, 1, T) is decoded from ``real``; ``others`` (N, 1, T) have no recording to be compared with and
        only have to pass for one.
        """
        assert self.discriminator is not None
        n = len(real)
        fake = fake if others is None else torch.cat([fake, others])
        room = real.shape[-1] - self.adversarial_samples
        if room > 0:
            start = int(torch.randint(room, ()))
            real = real[..., start : start + self.adversarial_samples]
            fake = fake[..., start : start + self.adversarial_samples]
        self.discriminator.requires_grad_(True)
        scores, _ = self.discriminator(torch.cat([real, fake.detach()]))
        loss = discriminator_loss([s[:n] for s in scores], [s[n:] for s in scores])
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(self.discriminator.parameters(), 5.0)
        optimizer.step()

        self.discriminator.requires_grad_(False)
        with torch.no_grad():
            _, real_features = self.discriminator(real)
        fake_scores, fake_features = self.discriminator(fake)
        adversarial = generator_loss(fake_scores)
        matching = feature_matching_loss(real_features, [[f[:n] for f in layers] for layers in fake_features])
        total = self.weights["adversarial"] * adversarial + self.weights["feature"] * matching
        return total, {"discriminator": loss, "adversarial": adversarial, "feature": matching}

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Move the averaged weights towards the current ones; the decay grows, so that the start is forgotten soon."""
        decay = min(self.average_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.codec.parameters()), 1 - decay)

    def on_validation_start(self) -> None:
        """Codebook statistics are averages already: the averaged model takes them as they are."""
        own = dict(self.average.named_parameters())
        self.average.load_state_dict({**self.codec.state_dict(), **own})
        self.average.eval()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        codec = self.average
        total = torch.zeros(())
        for n in sorted({1, 2, 4, codec.n_codebooks} & set(range(1, codec.n_codebooks + 1))):
            decoded, quantized = codec(self.heard(batch), self.speaker_input(batch), n_codebooks=n)
            loss, terms = self.reconstruction_loss(decoded, batch["waveform"], batch.get("moved"))
            self.log_dict({f"validation/{k}_{n}": v for k, v in terms.items()}, sync_dist=True)
            if self.teacher is not None:
                taught = self.teacher(quantized.latents, batch["taught"])
                loss = loss + self.weights["teacher"] * taught
                self.log(f"validation/teacher_{n}", taught, sync_dist=True)
            if n > 1 or codec.n_codebooks == 1:
                total = total + loss
        self.log("validation/loss", total, sync_dist=True)
        self.log("step", float(self.step))
