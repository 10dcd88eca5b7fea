"""Who speaks: one vector per utterance, small enough for a file's header."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.codec.encoder import Filterbank
from audiovq.nn import DilatedResidualUnit
from audiovq.quantize import FiniteScalarQuantizer


class SpeakerEncoder(nn.Module):
    """A stretch of speech of any length to one quantized vector.

    Log-magnitudes of a filterbank, dilated residual units, then mean and standard deviation over time weighted by a
    learned attention (Okabe et al. 2018), a projection to ``dim`` values and finite scalar quantization (Mentzer et
    al. 2023) to ``levels`` steps each.

    In training it sees another stretch of the same speaker than the one to be coded, so that it has nothing to tell
    but what the stretches share: the voice.

    Args:
        dim, levels: of the vector.
        channels, dilations: of the residual units.
        n_filters, kernel_size, stride: of the filterbank.
        normalised: whether the values get zero mean and unit variance before they are bounded. Without it training may
            drive them into saturation, where every value is one of the two outermost levels: gradients end there, and
            an average of two voices means nothing.
    """

    def __init__(
        self,
        dim: int = 32,
        levels: int = 16,
        channels: int = 128,
        dilations: Sequence[int] = (1, 2, 4),
        n_filters: int = 64,
        kernel_size: int = 400,
        stride: int = 160,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.levels, self.normalised = dim, levels, normalised
        self.filterbank = Filterbank(n_filters, kernel_size, stride, phase=False)
        self.entry = nn.Conv1d(n_filters, channels, 4, stride=2, padding=1)
        self.units = nn.Sequential(*[DilatedResidualUnit(channels, dilation=d) for d in dilations])
        self.attention = nn.Conv1d(channels, channels, 1)
        self.project = nn.Linear(2 * channels, dim)
        # Every entry of the vector is quantized on its own: entries are the positions of a one-channel sequence.
        self.quantizer = FiniteScalarQuantizer([levels])
        #: Shorter stretches are padded with silence up to this many samples.
        self.min_samples = 2 * stride

    def features(self, waveform: Tensor) -> Tensor:
        """Unquantized vector: (B, 1, T) -> (B, S)."""
        waveform = F.pad(waveform, (0, -waveform.shape[-1] % self.min_samples))
        x = self.filterbank(waveform)
        x = x - x.mean(dim=(1, 2), keepdim=True)  # the level of the recording is not the voice
        x = self.units(self.entry(x))
        weights = torch.softmax(self.attention(x).float(), dim=-1)
        x = x.float()
        mean = (weights * x).sum(-1)
        deviation = ((weights * x.square()).sum(-1) - mean.square()).clamp_min(1e-5).sqrt()
        vector = self.project(torch.cat([mean, deviation], dim=1)).float()
        return F.layer_norm(vector, (self.dim,)) if self.normalised else vector

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> quantized vector (B, S), with a straight-through gradient."""
        return self.quantizer(self.features(waveform).unsqueeze(1)).latents.squeeze(1)

    def encode(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> integer values (B, S) in ``[0, levels)``."""
        return self.quantizer.encode(self.features(waveform).unsqueeze(1)).squeeze(1)

    def levels_of(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> the values before rounding (B, S), from 0 to ``levels - 1``: these can be averaged."""
        return self.quantizer.bound(self.features(waveform).unsqueeze(1)).squeeze(1) + self.levels // 2

    def decode(self, codes: Tensor) -> Tensor:
        """Integer values (B, S) -> the vector (B, S), bit for bit what `forward` gave."""
        return self.quantizer.decode(codes.unsqueeze(1)).squeeze(1)
