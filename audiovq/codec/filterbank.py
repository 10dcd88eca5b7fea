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
        n_filters: quadrature pairs. Output channels are ``n_filters`` log-magnitudes, twice as many with ``phase`` and
            another two times with ``relative_phase``.
        kernel_size: samples of a filter.
        stride: samples between outputs; ``kernel_size - stride`` must be even.
        sample_rate: Hz.
        phase: whether the scaled pairs are given beside the log-magnitudes.
        relative_phase: whether they are also given turned back by the phase of a reference signal in the same band.
    """

    def __init__(
        self,
        n_filters: int,
        kernel_size: int,
        stride: int,
        sample_rate: int = 16000,
        phase: bool = True,
        relative_phase: bool = False,
    ) -> None:
        super().__init__()
        if (kernel_size - stride) % 2:
            raise ValueError(f"kernel_size - stride must be even, got {kernel_size} and {stride}")
        self.stride, self.phase, self.relative_phase = stride, phase, relative_phase
        self.padding = (kernel_size - stride) // 2
        self.out_channels = n_filters * (1 + 2 * phase + 2 * relative_phase)
        self.weight = nn.Parameter(gabor_filters(n_filters, kernel_size, sample_rate))

    def pairs(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, T) -> real and imaginary parts (B, n_filters, T / stride)."""
        if torch.onnx.is_in_onnx_export():  # ONNX has no strided windows of variable length
            x = F.conv1d(waveform, self.weight, stride=self.stride, padding=self.padding)
            real, imaginary = x.chunk(2, dim=1)
            return real, imaginary
        x = F.pad(waveform.float(), (self.padding, self.padding))
        # One matrix product over strided windows: several times faster on a CPU than a one-channel convolution.
        windows = x.squeeze(1).unfold(-1, self.weight.shape[-1], self.stride)  # (B, frames, kernel)
        real, imaginary = torch.matmul(windows, self.weight.squeeze(1).t()).transpose(1, 2).chunk(2, dim=1)
        return real, imaginary

    def forward(self, waveform: Tensor, reference: Tensor | None = None) -> Tensor:
        """Waveform and reference (B, 1, T), T a multiple of the stride -> (B, out_channels, T / stride)."""
        with torch.autocast(waveform.device.type, enabled=False):  # small magnitudes need float32
            real, imaginary = self.pairs(waveform)
            squared = real.square() + imaginary.square() + 1e-8
            magnitude = torch.sqrt(squared)
            level = (torch.log(magnitude + 1e-3) + 4.0) * 0.5  # roughly zero mean and unit variance on speech
            outputs = [level]
            scale = 2.0 * torch.exp(-0.3 * torch.log(squared))
            real, imaginary = real * scale, imaginary * scale
            if self.phase:
                outputs += [real, imaginary]
            if self.relative_phase:
                if reference is None:
                    raise ValueError("relative phases need a reference signal")
                cosine, sine = self.pairs(reference)
                size = torch.rsqrt(cosine.square() + sine.square() + 1e-4)  # fades out where there is no source
                cosine, sine = cosine * size, sine * size
                outputs += [real * cosine + imaginary * sine, imaginary * cosine - real * sine]
            return torch.cat(outputs, dim=1)
