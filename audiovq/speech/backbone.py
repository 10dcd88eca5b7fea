"""Latents -> features at a higher rate, modulated by the speaker: what every decoder begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from audiovq.nn import ChannelNorm, DilatedResidualUnit


class Backbone(nn.Module):
    """Residual units at the latents' rate, then at higher rates, with learned upsampling between the stages.

    Every residual unit is modulated by the speaker vector. Upsampling is by transposed convolutions as wide as their
    stride.

    Args:
        latent_dim: channels of the latents.
        condition_dim: length S of the speaker vector.
        channels, dilations: one entry per stage; a unit for every dilation.
        upsample: factor after each stage but the last.
    """

    def __init__(
        self,
        latent_dim: int,
        condition_dim: int,
        channels: Sequence[int],
        dilations: Sequence[Sequence[int]],
        upsample: Sequence[int],
    ) -> None:
        super().__init__()
        if not len(channels) == len(dilations) == len(upsample) + 1:
            raise ValueError("channels and dilations need one entry per stage, upsample one less")
        self.channels = list(channels)
        #: Set by those who add something to the features before the last stage.
        self.noise: Any = None
        self.entry = nn.Conv1d(latent_dim, channels[0], 3, padding=1)
        #: Features per latent.
        self.rate = 1
        self.reach = 1.0  # latents on either side that one feature may depend on
        self.stages = nn.ModuleList()
        self.upsamplers = nn.ModuleList()
        for i, (width, stage_dilations) in enumerate(zip(channels, dilations, strict=True)):
            units = [DilatedResidualUnit(width, dilation=d, condition_dim=condition_dim) for d in stage_dilations]
            self.reach += sum(unit.padding for unit in units) / self.rate
            self.stages.append(nn.ModuleList(units))
            if i < len(upsample):
                self.upsamplers.append(nn.Conv1d(width, channels[i + 1] * upsample[i], 1))
                self.rate *= upsample[i]
        self.norm = ChannelNorm(channels[-1])

    def features(self, latents: Tensor, condition: Tensor) -> Tensor:
        """Latents (B, C, F), speaker vector (B, S) -> features (B, channels[-1], F * rate)."""
        x = self.entry(latents)
        for i, units in enumerate(self.stages):
            if i == len(self.stages) - 1 and self.noise is not None:
                x = self.noise(x)
            for unit in units:  # type: ignore[attr-defined]
                x = unit(x, condition)
            if i < len(self.upsamplers):
                x = interleave(self.upsamplers[i](x), self.channels[i + 1])
        return self.norm(x)


def interleave(x: Tensor, channels: int) -> Tensor:
    """(B, channels * factor, T) -> (B, channels, T * factor): groups of channels become neighbouring steps of time."""
    batch, width, length = x.shape
    factor = width // channels
    return x.view(batch, channels, factor, length).transpose(2, 3).reshape(batch, channels, length * factor)
