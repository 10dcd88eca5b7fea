"""A learned analysis filterbank: the first, strided look at the raw waveform."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gabor_filters(n_filters: int, kernel_size: int, sample_rate: int) -> Tensor:
    """Windowed cosines and sines at mel-spaced frequencies, (2 * n_filters, 1, kernel_size).

    Cosines first, sines after. High bands get shorter windows, as wide as the band allows, so that they follow time
    more closely (Zeghidour et al. 2018 start learned filterbanks in this way).
    """
    mel_top = 2595.0 * math.log10(1.0 + (sample_rate / 2) / 700.0)
    mels = torch.linspace(0.0, mel_top, n_filters + 2, dtype=torch.float64)
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    centre, bandwidth = edges[1:-1], edges[2:] - edges[:-2]
    width = (4.0 * sample_rate / bandwidth).clamp(min=kernel_size / 5, max=kernel_size)  # samples of a Hann window
    time = torch.arange(kernel_size, dtype=torch.float64) - (kernel_size - 1) / 2
    position = (time[None] / width[:, None]).clamp(-0.5, 0.5)
    window = torch.cos(math.pi * position) ** 2
    window = window / window.sum(dim=1, keepdim=True)
    angle = 2 * math.pi * centre[:, None] / sample_rate * time[None]
    filters = torch.cat([window * torch.cos(angle), window * torch.sin(angle)])
    return (2.0 * filters).float().unsqueeze(1)


class Filterbank(nn.Module):
    """Strided convolution of the waveform with learned quadrature pairs, then compression of their magnitudes.

    Speech spans some 60 dB within a second; compressed magnitudes put the quiet parts in reach of the layers behind,
    and the scaled pairs keep the phase, which the finer codebooks describe.

    Args:
        n_filters: quadrature pairs. Output channels are ``3 * n_filters``, or ``n_filters`` without phase.
        kernel_size: samples of a filter.
        stride: samples between outputs; ``kernel_size - stride`` must be even.
        phase: whether the scaled pairs are given beside the log-magnitudes.
    """

    def __init__(
        self, n_filters: int, kernel_size: int, stride: int, sample_rate: int = 16000, phase: bool = True
    ) -> None:
        super().__init__()
        if (kernel_size - stride) % 2:
            raise ValueError(f"kernel_size - stride must be even, got {kernel_size} and {stride}")
        self.stride, self.phase = stride, phase
        self.padding = (kernel_size - stride) // 2
        self.out_channels = n_filters * (3 if phase else 1)
        self.weight = nn.Parameter(gabor_filters(n_filters, kernel_size, sample_rate))

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, 1, T), T a multiple of the stride -> (B, out_channels, T / stride)."""
        with torch.autocast(waveform.device.type, enabled=False):  # small magnitudes need float32
            x = F.pad(waveform.float(), (self.padding, self.padding))
            # One matrix product over strided windows: several times faster on a CPU than a one-channel convolution.
            windows = x.squeeze(1).unfold(-1, self.weight.shape[-1], self.stride)  # (B, frames, kernel)
            pairs = torch.matmul(windows, self.weight.squeeze(1).t()).transpose(1, 2)
            real, imaginary = pairs.chunk(2, dim=1)
            magnitude = torch.sqrt(real.square() + imaginary.square() + 1e-8)
            level = (torch.log(magnitude + 1e-3) + 4.0) * 0.5  # roughly zero mean and unit variance on speech
            if not self.phase:
                return level
            scale = magnitude**-0.6
            return torch.cat([level, 2.0 * real * scale, 2.0 * imaginary * scale], dim=1)
