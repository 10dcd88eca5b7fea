"""Strided convolutional networks between pictures and latents (van den Oord et al. 2017, section 4.1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """ReLU, 3x3 convolution, ReLU, 1x1 convolution, beside the identity: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, hidden, 3, padding=1)
        self.widen = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.widen(F.relu(self.narrow(F.relu(x))))


class Encoder(nn.Sequential):
    """Halve the resolution with 4x4 convolutions until ``factor`` is reached, then residual blocks.

    (B, in_channels, H, W) -> (B, channels, H / factor, W / factor), rectified.
    """

    def __init__(self, in_channels: int, channels: int, factor: int, residual: int, n_residual: int) -> None:
        layers: list[nn.Module] = []
        for left in halvings(factor):
            out = channels if left == 1 else max(channels // left, in_channels)
            layers += [nn.Conv2d(in_channels, out, 4, stride=2, padding=1), nn.ReLU()]
            in_channels = out
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1)]
        layers += [ResidualBlock(channels, residual) for _ in range(n_residual)]
        super().__init__(*layers, nn.ReLU())


class Decoder(nn.Sequential):
    """The way back: residual blocks, then 4x4 transposed convolutions that double the resolution.

    (B, in_channels, h, w) -> (B, out_channels, h * factor, w * factor).
    """

    def __init__(
        self, in_channels: int, channels: int, out_channels: int, factor: int, residual: int, n_residual: int
    ) -> None:
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, padding=1)]
        layers += [ResidualBlock(channels, residual) for _ in range(n_residual)]
        inside = channels
        for done in reversed(halvings(factor)):
            out = out_channels if done == factor // 2 else max(channels // (2 * done), 16)
            layers += [nn.ReLU(), nn.ConvTranspose2d(inside, out, 4, stride=2, padding=1)]
            inside = out
        super().__init__(*layers)


def halvings(factor: int) -> list[int]:
    """How much is left to halve after each step: 8 -> [4, 2, 1].

    Raises:
        ValueError: when ``factor`` is no power of two above one.
    """
    if factor < 2 or factor & (factor - 1):
        raise ValueError(f"the resolution falls by powers of two, {factor} is none")
    return [factor >> i for i in range(1, factor.bit_length())]
