"""The training task of a codec whose codes do not say who speaks: what voice conversion asks for."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.errors import AudioVQError
from audiovq.quantize import Quantized
from audiovq.training.melody import MelodyLoss
from audiovq.training.speech_codec import SpeechCodecTask
from audiovq.training.verifier import SpeakerVerifier


class VoiceCodecTask(SpeechCodecTask):
    """A `SpeechCodecTask` that hears speech in changed voices, decodes it in its own, and converts as it goes.

    The encoder gets ``batch["perturbed"]`` (see `audiovq.data.perturb`), the decoder's target is the recording itself
    and the speaker vector is from clean speech: what the perturbation changes must come from that vector. Losses that
    look at phase leave out items whose pitch was moved.

    Items with a partner (see `audiovq.data.partners`, ``training.conversion_share``) are also converted: heard in the
    partner's register, decoded with the partner's vector. There is no recording to compare the result with. It has to
    pass for the partner before a verifier (weight ``voice``; Casanova et al. 2022, YourTTS, section 2.2), to give
    the encoder the same latents again (``content``) and the speaker encoder the same vector (``identity``), to keep the
    fundamental frequency (``melody``), and to pass for a recording before the discriminators.

    Args:
        swap_share: share of a batch that is first converted by the model as it is now, to the speaker of another item,
            and then heard by the encoder in that voice (back-translation: Sennrich et al. 2016; cycles: Kaneko and
            Kameoka 2018). The model trains on its own conversions, and the way back is known.
        swap_start: first step with swapped items.
        verifier: folder or run of a `SpeakerVerifier` trained on the same speakers, or None.
        verifier_learning_rate: of the verifier while the codec trains: it goes on learning who speaks in recordings,
            and learns to name the source of a conversion (Li et al. 2021, StarGANv2-VC, section 2.2, whose classifier
            of the source this is), so that no blind spot of it can be lived in. 0: it stays as it is.
        n_speakers: of the classifier that looks for the speaker in the quantized latents, with its gradient reversed
            before them (Ganin and Lempitsky 2015). Weight: ``classifier``; 0 leaves it out.
        others: those of `SpeechCodecTask`.
    """

    def __init__(
        self,
        swap_share: float = 0.0,
        swap_start: int = 0,
        verifier: str | None = None,
        verifier_learning_rate: float = 0.0,
        n_speakers: int = 128,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self.swap_share, self.swap_start = swap_share, swap_start
        self.classifier: SpeakerClassifier | None = None
        if self.weights.get("classifier", 0):
            self.classifier = SpeakerClassifier(self.codec.encoder.latent_dim, n_speakers)
        self.melody_loss = MelodyLoss() if self.weights.get("melody", 0) else None
        judge = SpeakerVerifier.load(verifier) if verifier else None
        self.verifier_learning_rate = verifier_learning_rate
        # One that learns is part of this task's state; one that is given is not (in a list, torch does not see it).
        self.judge = judge if verifier_learning_rate else None
        self._verifier = [judge] if judge is not None else []

    def on_train_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self._verifier and self._verifier[0].speakers != data.train.speakers:
            raise AudioVQError("the speaker verifier knows other speakers than this data has: train it on the same")

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers = super().configure_optimizers()
        if self.judge is not None:
            optimizers.append(torch.optim.AdamW(self.judge.parameters(), self.verifier_learning_rate, foreach=True))
        return optimizers

    def learning_rates(self) -> list[float]:
        return super().learning_rates() + [self.verifier_learning_rate] * (self.judge is not None)

    def trained_parameters(self) -> list[nn.Parameter]:
        own = list(self.classifier.parameters()) if self.classifier is not None else []
        return super().trained_parameters() + own

    def heard(self, batch: dict[str, Tensor]) -> Tensor:
        return batch.get("perturbed", batch["waveform"])

    def code(self, batch: dict[str, Tensor]) -> tuple[Tensor, Quantized]:
        codec, n = self.codec, len(batch["waveform"])
        speaker = codec.speaker_encoder(self.speaker_input(batch))
        heard = self.swapped(self.heard(batch), speaker, batch)
        partnered = batch["wanted"] >= 0 if "wanted" in batch else torch.zeros(n, dtype=torch.bool)
        if n_others := int(partnered.sum()):
            heard = torch.cat([heard, batch["source"][partnered]])
            batch["voice_vector"] = codec.speaker_encoder(batch["voice"][partnered])
            speaker = torch.cat([speaker, batch["voice_vector"]])
        quantized = codec.quantizer(codec.encoder(heard))
        decoded = codec.decoder(quantized.latents, speaker)
        batch["decoded"] = decoded[:n]
        if n_others:
            batch["converted"], batch["partnered"] = decoded[n:], partnered
        return decoded[:n], quantized

    @torch.no_grad()
    def swapped(self, heard: Tensor, speaker: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """(B, 1, T), some items of it said by others: ``speaker`` (B, S) one place on, random numbers of codebooks."""
        n_swapped = round(self.swap_share * len(heard)) if int(self.step) >= self.swap_start else 0
        if not n_swapped:
            return heard
        codec, chosen = self.codec, torch.randperm(len(heard))[:n_swapped].to(heard.device)
        n_codebooks = 1 + int(torch.randint(codec.n_codebooks, ()))
        latents = codec.quantizer.decode(codec.quantizer.encode(codec.encoder(heard[chosen]), n_codebooks))
        heard, batch["moved"] = heard.clone(), batch["moved"].clone()
        heard[chosen] = codec.decoder(latents, torch.roll(speaker, 1, 0)[chosen]).float()
        batch["moved"][chosen] = True  # phases are the model's own now
        return heard

    def more_losses(self, batch: dict[str, Tensor], quantized: Quantized) -> tuple[Tensor, dict[str, Tensor]]:
        terms: dict[str, Tensor] = {}
        if self.classifier is not None:
            own = quantized.latents[: len(batch["speaker"])]
            terms["classifier"] = F.cross_entropy(self.classifier(reverse_gradient(own)).float(), batch["speaker"])
        if self.teacher is not None:
            taught = batch["taught"]
            if "converted" in batch:  # what is heard to be converted says the same
                taught = torch.cat([taught, taught[batch["partnered"]]])
            terms["teacher"] = self.teacher(quantized.latents, taught)
        if self.melody_loss is not None:
            terms["melody"] = self.melody_loss(batch["decoded"], batch["waveform"])
        if "converted" in batch:
            terms |= self.conversion_terms(batch, quantized.latents[len(batch["waveform"]) :].detach())
        total = quantized.latents.new_zeros(())
        for name, term in terms.items():
            if name != "judge":  # has had its own step
                total = total + self.weights[name.removesuffix("_converted")] * term
        return total, terms

    def judge_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Update the verifier: a recording is of its speaker, and so is a conversion of it, whoever it imitates.

        Virtual voices have no name and are left out.
        """
        assert self.judge is not None
        judge, own = self.judge.requires_grad_(True), batch["speaker"]
        named = batch["speed"] == 0 if "speed" in batch else torch.ones_like(own, dtype=torch.bool)
        from_named = named[batch["partnered"]]
        heard = torch.cat([batch["waveform"][named], batch["converted"].detach()[from_named]])
        speaker = torch.cat([own[named], own[batch["partnered"]][from_named]])
        if not len(heard):
            return own.new_zeros((), dtype=torch.float32)
        loss = judge.loss(judge(heard), speaker)
        optimizer: Any = self.optimizers()[-1]  # type: ignore[index]
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 5.0)
        optimizer.step()
        judge.requires_grad_(False)
        return loss.detach()

    def voice_term(self, batch: dict[str, Tensor]) -> Tensor:
        """What the verifier says of the conversions: is it the partner of all speakers, or, for a partner that is a
        virtual voice, is it nearer to the partner's recording than to the source's?"""
        verifier = self._verifier[0].to(batch["converted"].device)
        partnered, vectors = batch["partnered"], verifier(batch["converted"])
        wanted, virtual = batch["wanted"][partnered], batch["virtual"][partnered]
        total = vectors.new_zeros(())
        if not bool(virtual.all()):
            total = total + (~virtual).float().mean() * verifier.loss(vectors[~virtual], wanted[~virtual])
        if bool(virtual.any()):
            with torch.no_grad():
                theirs = verifier(batch["voice"][partnered][virtual])
                own = verifier(batch["waveform"][partnered][virtual])
            total = total + virtual.float().mean() * verifier.nearer(vectors[virtual], theirs, own)
        return total

    def conversion_terms(self, batch: dict[str, Tensor], said: Tensor) -> dict[str, Tensor]:
        """What conversions (N, 1, T) of the latents ``said`` (N, C, F) are judged by: is it them, is it the same?

        Verifier and speaker encoder only judge; the encoder also learns to find the same in another voice.
        """
        codec, converted, partnered = self.codec, batch["converted"], batch["partnered"]
        terms: dict[str, Tensor] = {}
        if self.judge is not None:
            terms["judge"] = self.judge_step(batch)
        if self._verifier:
            terms["voice"] = self.voice_term(batch)
        if self.melody_loss is not None:
            terms["melody_converted"] = self.melody_loss(converted, batch["source"][partnered])
        if self.weights["identity"]:
            judges = list(codec.speaker_encoder.parameters())
            for parameter in judges:
                parameter.requires_grad_(False)
            terms["identity"] = F.mse_loss(codec.speaker_encoder(converted).float(), batch["voice_vector"].detach())
            for parameter in judges:
                parameter.requires_grad_(True)
        if self.weights["content"] or self.teacher is not None:
            again = codec.encoder(converted)
            if self.weights["content"]:
                size = said.square().mean().clamp_min(1e-6)
                terms["content"] = (again.float() - said).square().mean() / size
            if self.teacher is not None:
                terms["teacher_converted"] = self.teacher(again, batch["taught"][partnered])
        return terms


class SpeakerClassifier(nn.Module):
    """Who speaks, from quantized latents: two convolutions, mean and deviation over time, a linear layer."""

    def __init__(self, latent_dim: int, n_speakers: int, channels: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(latent_dim, channels, 5, padding=2),
            nn.SiLU(),
            nn.Conv1d(channels, channels, 5, padding=2),
            nn.SiLU(),
        )
        self.out = nn.Linear(2 * channels, n_speakers)

    def forward(self, latents: Tensor) -> Tensor:
        """(B, C, F) -> scores (B, n_speakers)."""
        x = self.layers(latents)
        return self.out(torch.cat([x.mean(2), x.std(2)], dim=1))


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


def reverse_gradient(x: Tensor) -> Tensor:
    """The same values; the gradient comes back with the other sign."""
    return _Reversal.apply(x)
