"""The VQ-VAE for speech of van den Oord et al. (2017), section 4.2: strided encoder, one codebook, WaveNet decoder."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.codec.encoder import Trunk
from audiovq.errors import AudioVQError
from audiovq.hub import load_weights, model_folder
from audiovq.nn.distributions import MuLawCategorical, compand
from audiovq.nn.sequence import WaveNetStack
from audiovq.quantize import Quantized, VectorQuantizer
from audiovq.wavenet.sampler import Noise, WaveNetSampler


class PaperDecoder(nn.Module):
    """WaveNet over mu-law samples, one at each step, conditioned on upsampled latents and on the speaker's number.

    The latents go through a convolution and transposed convolutions (van den Oord et al. 2016, section 2.5); what is
    left up to the sample rate is repetition. The embedding of the speaker's number, a one-hot vector times a matrix, is
    added at all positions. It satisfies `audiovq.kernels.wavenet_layout.Recurrence`.

    Args:
        latent_dim: channels of the latents.
        n_speakers: rows of the speaker table.
        hop_length: samples of a latent.
        stack: arguments of `WaveNetStack` without the numbers of inputs, outputs and condition channels.
        channels: of the condition.
        upsample: factors of the transposed convolutions.
        bits: of the mu-law levels.

    Raises:
        ValueError: when the upsampling does not divide the hop length.
    """

    n_values, taps, has_extra = 1, 0, False
    level: nn.Linear | None = None

    def __init__(
        self,
        latent_dim: int,
        n_speakers: int,
        hop_length: int,
        stack: dict[str, Any],
        channels: int = 256,
        upsample: Sequence[int] = (2, 2),
        bits: int = 8,
    ) -> None:
        super().__init__()
        #: Steps that one position of the condition lasts.
        self.hold, rest = divmod(hop_length, prod(upsample))
        if rest:
            raise ValueError(f"a hop of {hop_length} samples is no multiple of the upsampling {list(upsample)}")
        self.output = MuLawCategorical(bits)
        self.entry = nn.Conv1d(latent_dim, channels, 3, padding=1)
        self.upsample = nn.ModuleList(
            nn.ConvTranspose1d(channels, channels, factor + 2 * (factor // 2), factor, factor // 2)
            for factor in upsample
        )
        self.speaker = nn.Embedding(n_speakers, channels)
        sizes = {"in_channels": 2, "out_channels": self.output.n_levels, "condition_channels": channels}
        self.stack = WaveNetStack(**sizes, **stack)

    def condition(self, latents: Tensor, speaker: Tensor) -> Tensor:
        """Latents (B, C, F), speaker numbers (B,) -> condition of the stack (B, channels, F * hop_length / hold)."""
        x = self.entry(latents)
        for layer in self.upsample:
            x = layer(F.silu(x))
        return x + self.speaker(speaker)[:, :, None]

    def logits(self, values: Tensor, condition: Tensor) -> Tensor:
        """Logits of each sample given those before it: values (B, 1, T), all known -> (B, n_levels, T)."""
        before = F.pad(values, (1, -1))
        return self.stack(torch.cat([before, compand(before)], dim=1), condition)

    def forward(self, waveform: Tensor, latents: Tensor, speaker: Tensor) -> Tensor:
        """Negative log-likelihood of each sample in nats, by teacher forcing.

        Args:
            waveform: (B, 1, F * hop_length).
            latents: (B, C, F).
            speaker: (B,) int64.

        Returns:
            (B, 1, F * hop_length) float32.
        """
        values = self.output.on_grid(waveform)
        logits = self.logits(values, self.condition(latents, speaker))
        return self.output.nll(logits.unsqueeze(2), values)


class PaperVQVAE(nn.Module):
    """Waveform -> codes -> distribution of the waveform given codes and speaker; all parts are trained together.

    Codes of a recording, decoded with another speaker's number, convert its voice. The encoder, too, gets samples on
    the mu-law scale, and starts with weights that keep the variance of their inputs and without biases: otherwise all
    its first latents are alike, and all but one of the codes go out of use before the decoder has learned to read them.

    Args:
        encoder: arguments of `Trunk`.
        quantizer: arguments of `VectorQuantizer` without the channels.
        decoder: arguments of `PaperDecoder` without those that the encoder and the speakers decide.
        speakers: names, in the order of their numbers.
        sample_rate: Hz.
    """

    def __init__(
        self,
        encoder: dict[str, Any],
        quantizer: dict[str, Any],
        decoder: dict[str, Any],
        speakers: Sequence[str],
        sample_rate: int = 16000,
    ) -> None:
        super().__init__()
        #: The arguments, as they are kept on disk.
        self.config: dict[str, Any] = {
            "encoder": encoder,
            "quantizer": quantizer,
            "decoder": decoder,
            "speakers": list(speakers),
            "sample_rate": sample_rate,
        }
        self.speakers, self.sample_rate = list(speakers), sample_rate
        self.encoder = Trunk(**encoder)
        self.hop_length, latent_dim = self.encoder.hop_length, self.encoder.latent_dim
        self.quantizer = VectorQuantizer(latent_dim, **quantizer)
        self.decoder = PaperDecoder(latent_dim, len(self.speakers), self.hop_length, **decoder)
        for layer in self.encoder.layers:
            if isinstance(layer, nn.Conv1d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path) -> PaperVQVAE:
        """Load a run (``runs/NAME``) or a folder with config and weights.

        Raises:
            AudioVQError: when there is no such model, it is of another kind, or its files are damaged.
        """
        return load_weights(cls, model_folder(name_or_dir))

    def forward(self, waveform: Tensor, speaker: Tensor) -> tuple[Tensor, Quantized]:
        """Negative log-likelihood (B, 1, T) in nats, whose mean is the first term of eq. 3, and the quantizer's result.

        Args:
            waveform: (B, 1, T), T a multiple of ``hop_length``.
            speaker: (B,) int64 numbers.
        """
        quantized = self.quantizer(self.encoder(compand(waveform)))
        return self.decoder(waveform, quantized.latents, speaker), quantized

    def number(self, speaker: str) -> int:
        """The number of a speaker.

        Raises:
            AudioVQError: when the model was trained without that speaker.
        """
        if speaker not in self.speakers:
            few = ", ".join(self.speakers[:3])
            raise AudioVQError(f"no speaker {speaker!r} among the {len(self.speakers)} of this model ({few}, ...)")
        return self.speakers.index(speaker)

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """Codes (B, 1, F) of waveforms (B, 1, T); the last frame is padded with zeros."""
        padded = F.pad(waveform, (0, -waveform.shape[-1] % self.hop_length))
        return self.quantizer.encode(self.encoder(compand(padded)))

    @torch.no_grad()
    def decode(self, codes: Tensor, speaker: Tensor, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Sample waveforms (B, 1, F * hop_length) on the CPU; each item gets the samples that it gets alone.

        Args:
            codes: (B, 1, F).
            speaker: (B,) int64 numbers.
            seed: of the random numbers, the same for all items.
            temperature: below 1: nearer to the most likely samples.
        """
        condition = self.decoder.condition(self.quantizer.decode(codes), speaker.to(codes.device))
        sampler = WaveNetSampler(self.decoder)
        noise = Noise(sampler, seed).at(0, codes.shape[-1] * self.hop_length).expand(len(codes), -1, -1, -1)
        return sampler.sample(condition, noise, temperature=temperature)

    def convert(self, waveform: Tensor, speaker: Tensor, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Encode waveforms (B, 1, T) and decode them with the speakers (B,) -> (B, 1, T). See `decode`."""
        return self.decode(self.encode(waveform), speaker, seed, temperature)[..., : waveform.shape[-1]]
