"""Waveform -> latents: strided convolutions with dilated residual units between them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from audiovq.codec.filterbank import Filterbank
from audiovq.nn import ChannelNorm, DilatedResidualUnit


class SpeechEncoder(nn.Module):
    """Raw waveform to latents at a lower rate.

    Stage ``i`` is a strided convolution to ``channels[i]`` followed by one dilated residual unit for every entry of
    ``dilations[i]``. The paper's encoder (van den Oord et al. 2017, section 4.2) is six stages of stride 2 and window 4
    without residual units. With ``filterbank`` the waveform is first taken through quadrature filters (see
    `Filterbank`), which strides early: nearly all work is then done at 200 Hz and below.

    Args:
        latent_dim: channels C of the latents.
        channels, strides, kernel_sizes, dilations: one entry per stage.
        filterbank: arguments of `Filterbank`, or None to convolve the waveform itself.

    Raises:
        ValueError: when the lists differ in length or a stage cannot keep the frame count exact.
    """

    def __init__(
        self,
        latent_dim: int,
        channels: Sequence[int],
        strides: Sequence[int],
        kernel_sizes: Sequence[int],
        dilations: Sequence[Sequence[int]],
        filterbank: dict | None = None,
    ) -> None:
        super().__init__()
        if not len(channels) == len(strides) == len(kernel_sizes) == len(dilations):
            raise ValueError("channels, strides, kernel_sizes and dilations need one entry per stage")
        self.latent_dim = latent_dim
        self.filterbank = Filterbank(**filterbank) if filterbank else None
        self.hop_length = self.filterbank.stride if self.filterbank else 1
        before = self.filterbank.out_channels if self.filterbank else 1
        layers: list[nn.Module] = []
        reach = (self.filterbank.padding + self.hop_length) if self.filterbank else 0
        for width, stride, kernel_size, stage_dilations in zip(channels, strides, kernel_sizes, dilations, strict=True):
            if (kernel_size - stride) % 2 or kernel_size < stride:
                raise ValueError(f"kernel_size {kernel_size} and stride {stride} must differ by an even number >= 0")
            padding = (kernel_size - stride) // 2
            layers.append(nn.Conv1d(before, width, kernel_size, stride=stride, padding=padding))
            reach += (padding + stride) * self.hop_length
            self.hop_length *= stride
            for dilation in stage_dilations:
                unit = DilatedResidualUnit(width, dilation=dilation)
                layers.append(unit)
                reach += unit.padding * self.hop_length
            if not stage_dilations:
                layers.append(nn.SiLU())
            before = width
        self.layers = nn.Sequential(*layers)
        self.project = nn.Sequential(ChannelNorm(before), nn.Conv1d(before, latent_dim, 1))
        #: Latents on either side that one latent may depend on; this much context makes chunked equal whole.
        self.context_frames = -(-reach // self.hop_length)

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, 1, T), T a multiple of ``hop_length`` -> (B, latent_dim, T / hop_length)."""
        if waveform.shape[-1] % self.hop_length:
            raise ValueError(f"{waveform.shape[-1]} samples are no multiple of the hop length {self.hop_length}")
        x = self.filterbank(waveform) if self.filterbank is not None else waveform
        return self.project(self.layers(x))
