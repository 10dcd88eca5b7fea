"""What another decoder makes of the same codes, as a WaveNet reads it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.nn.distributions import compand


class DraftReader(nn.Module):
    """A draft of the whole waveform, told to an autoregressive network that makes the final one step by step.

    The draft says what the codes mean, roughly and at once, and unlike the past it reaches ahead. It enters twice:
    a convolution over the steps around the present one gives features for the network's first layer, and a share of
    the draft's own values, between none and all for each value of a step as the condition decides, is taken off
    the values that the network models. So where the draft is good the network has a small remainder to tell, and where
    it is not, as in noise, it tells the values themselves.

    Args:
        n_values: values of a step, G.
        channels: of the features.
        condition_channels: of the condition.
        kernel_size: odd: steps around the present one that the features see.
    """

    def __init__(self, n_values: int, channels: int, condition_channels: int, kernel_size: int = 17) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        #: Steps on either side that the features depend on.
        self.context_steps = kernel_size // 2
        self.look = nn.Conv1d(2 * n_values, channels, kernel_size, padding=self.context_steps)
        self.share = nn.Linear(condition_channels, n_values)
        nn.init.zeros_(self.share.weight)
        nn.init.zeros_(self.share.bias)

    def features(self, values: Tensor) -> Tensor:
        """The draft's values (B, G, T) -> (B, channels, T)."""
        return self.look(torch.cat([values, compand(values)], dim=1))

    def base(self, values: Tensor, condition: Tensor) -> Tensor:
        """What is taken off: values (B, G, T), condition (B, condition_channels, T / hold) -> (B, G, T)."""
        with torch.autocast(values.device.type, enabled=False):
            share = torch.sigmoid(self.share(condition.float().transpose(1, 2))).transpose(1, 2)
            # Between the condition's positions the share moves on a line: a step in it would be heard.
            share = F.interpolate(share, size=values.shape[-1], mode="linear") if share.shape[-1] > 1 else share
            return share * values
