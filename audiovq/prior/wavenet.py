"""The paper's kind of prior: WaveNet over the frames of codes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from audiovq.nn.wavenet_stack import WaveNetStack


class WaveNetBackbone(nn.Module):
    """Causal gated convolutions over frames (van den Oord et al. 2016; 2017, section 4.2), as `make_backbone` wants it.

    Conditions are part of the input, so that the gates' own condition is a constant: their bias.

    Args:
        width: channels of input and output.
        channels, skip_channels, n_layers, dilation_cycle, kernel_size: of `WaveNetStack`.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        skip_channels: int,
        n_layers: int,
        dilation_cycle: int,
        kernel_size: int = 2,
    ) -> None:
        super().__init__()
        self.stack = WaveNetStack(
            width, channels, skip_channels, width, n_layers, dilation_cycle, kernel_size, condition_channels=1
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, C) -> (B, F, C)."""
        return self.stack(x.transpose(1, 2), x.new_ones(len(x), 1, 1)).transpose(1, 2)

    def start(self, batch: int, like: Tensor) -> tuple[list[Any], Tensor]:
        """The state before the first step."""
        projected = self.stack.project_condition(like.new_ones(batch, 1, 1))
        return self.stack.initial_state(batch, like), projected

    def step(self, x: Tensor, state: tuple[list[Any], Tensor]) -> Tensor:
        """The next input (B, C) -> its output (B, C), the same as `forward` gives there."""
        layers, projected = state
        return self.stack.advance(x[:, :, None], projected, layers)[:, :, 0]
