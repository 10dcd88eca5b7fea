"""The training task of a codec whose codes do not say who speaks: what voice conversion asks for."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.quantize import Quantized
from audiovq.training.speech_codec import SpeechCodecTask


class VoiceCodecTask(SpeechCodecTask):
    """A `SpeechCodecTask` that hears speech in changed voices and has to decode it in its own.

    The encoder gets ``batch["perturbed"]`` (see `audiovq.data.perturb`), the decoder's target is the recording itself
    and the speaker vector is from clean speech: what the perturbation changes must come from that vector. Losses that
    look at phase leave out items whose pitch was moved.

    Args:
        swap_share: share of a batch that is first converted by the model as it is now, to the speaker of another item,
            and then heard by the encoder in that voice (back-translation: Sennrich et al. 2016; cycles: Kaneko and
            Kameoka 2018). The model trains on its own conversions, and the way back is known.
        swap_start: first step with swapped items.
        identity_share: share of a batch decoded with another item's speaker vector, whose speaker encoding has to be
            that vector again and whose latents those that were decoded. Weights: ``identity``, ``content``.
        n_speakers: of the classifier that looks for the speaker in the quantized latents, with its gradient reversed
            before them (Ganin and Lempitsky 2015). Weight: ``classifier``; 0 leaves it out.
        others: those of `SpeechCodecTask`.
    """

    def __init__(
        self,
        swap_share: float = 0.0,
        swap_start: int = 0,
        identity_share: float = 0.0,
        n_speakers: int = 128,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self.swap_share, self.swap_start, self.identity_share = swap_share, swap_start, identity_share
        self.classifier: SpeakerClassifier | None = None
        if self.weights.get("classifier", 0):
            self.classifier = SpeakerClassifier(self.codec.encoder.latent_dim, n_speakers)

    def trained_parameters(self) -> list[nn.Parameter]:
        own = list(self.classifier.parameters()) if self.classifier is not None else []
        return super().trained_parameters() + own

    def heard(self, batch: dict[str, Tensor]) -> Tensor:
        return batch.get("perturbed", batch["waveform"])

    def code(self, batch: dict[str, Tensor]) -> tuple[Tensor, Quantized]:
        codec = self.codec
        speaker = codec.speaker_encoder(self.speaker_input(batch))
        heard = self.heard(batch)
        n_swapped = round(self.swap_share * len(heard)) if int(self.step) >= self.swap_start else 0
        if n_swapped:
            chosen = torch.randperm(len(heard))[:n_swapped].to(heard.device)
            heard, batch["moved"] = heard.clone(), batch["moved"].clone()
            heard[chosen] = self.converted(heard[chosen], torch.roll(speaker, 1, 0)[chosen])
            batch["moved"][chosen] = True  # phases are the model's own now
        quantized = codec.quantizer(codec.encoder(heard))
        batch["speaker_vector"] = speaker
        return codec.decoder(quantized.latents, speaker), quantized

    @torch.no_grad()
    def converted(self, waveform: Tensor, speaker: Tensor) -> Tensor:
        """(B, 1, T) in the voices (B, S), with a random number of codebooks."""
        codec = self.codec
        n_codebooks = 1 + int(torch.randint(codec.n_codebooks, ()))
        latents = codec.quantizer.decode(codec.quantizer.encode(codec.encoder(waveform), n_codebooks))
        return codec.decoder(latents, speaker).float()

    def more_losses(self, batch: dict[str, Tensor], quantized: Quantized) -> tuple[Tensor, dict[str, Tensor]]:
        terms: dict[str, Tensor] = {}
        if self.classifier is not None:
            scores = self.classifier(reverse_gradient(quantized.latents))
            terms["classifier"] = F.cross_entropy(scores.float(), batch["speaker"])
        if n := round(self.identity_share * len(quantized.latents)):
            terms |= self.identity_terms(quantized.latents[:n], torch.roll(batch["speaker_vector"], 1, 0)[:n].detach())
        total = quantized.latents.new_zeros(())
        for name, term in terms.items():
            total = total + self.weights[name] * term
        return total, terms

    def identity_terms(self, latents: Tensor, speaker: Tensor) -> dict[str, Tensor]:
        """Decode latents (B, C, F) with other speakers' vectors (B, S): is it them, and do they say the same?

        The speaker encoder and the encoder only judge: neither learns from what it sees here.
        """
        codec = self.codec
        decoded = codec.decoder(latents, speaker)
        judges = [*codec.speaker_encoder.parameters(), *codec.encoder.parameters()]
        for parameter in judges:
            parameter.requires_grad_(False)
        voice = codec.speaker_encoder(decoded)
        again = codec.encoder(decoded)
        for parameter in judges:
            parameter.requires_grad_(True)
        size = latents.detach().square().mean().clamp_min(1e-6)
        return {
            "identity": F.mse_loss(voice.float(), speaker),
            "content": (again.float() - latents.detach()).square().mean() / size,
        }


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
