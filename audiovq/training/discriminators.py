"""Small discriminators on complex spectrograms (Jang et al. 2021, UnivNet; Défossez et al. 2022, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from audiovq.training.losses import stft


class SpectrogramDiscriminator(nn.Module):
    """Two-dimensional convolutions over one power-compressed complex spectrogram.

    Frequency is strided early: on a CPU the first layers would otherwise cost as much as the whole codec.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int, channels: int) -> None:
        super().__init__()
        self.hop_length = hop_length
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)
        shapes = [  # in, out, (frequency, time) kernel, frequency stride, time dilation
            (3, channels, (7, 3), 4, 1),
            (channels, 2 * channels, (7, 3), 4, 1),
            (2 * channels, 2 * channels, (5, 3), 2, 2),
            (2 * channels, 2 * channels, (3, 3), 1, 4),
        ]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(i, o, kernel, (stride, 1), (kernel[0] // 2, dilation), dilation=(1, dilation)), dim=0)
            for i, o, kernel, stride, dilation in shapes
        )
        self.last = weight_norm(nn.Conv2d(2 * channels, 1, 3, padding=1), dim=0)

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 1, T) -> score map and the inner features."""
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = stft(waveform.squeeze(1).float(), self.window, self.hop_length)
            squared = spectrum.real.square() + spectrum.imag.square() + 1e-6
            scale = squared**-0.35
            level = 0.25 * torch.log(squared) + 1.0
            x = torch.stack([spectrum.real * scale, spectrum.imag * scale, level], dim=1)
        x = x.contiguous(memory_format=torch.channels_last)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.last(x), features


class MultiResolutionDiscriminator(nn.Module):
    """One `SpectrogramDiscriminator` per resolution."""

    def __init__(
        self,
        n_ffts: Sequence[int] = (1024, 512, 256),
        hop_lengths: Sequence[int] = (256, 160, 80),
        channels: int = 16,
    ) -> None:
        super().__init__()
        self.resolutions = nn.ModuleList(
            SpectrogramDiscriminator(n, hop, channels) for n, hop in zip(n_ffts, hop_lengths, strict=True)
        )

    def forward(self, waveform: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """(B, 1, T) -> one score map per resolution, and each one's inner features."""
        scores, features = [], []
        for resolution in self.resolutions:
            score, inner = resolution(waveform)
            scores.append(score)
            features.append(inner)
        return scores, features
