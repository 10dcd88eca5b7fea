"""How much of a codebook is in use: collapse must be seen, not guessed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Usage(nn.Module):
    """Remembers for each of ``size`` codes how many training steps ago it was last used.

    Args:
        window: training steps over which ``usage_window`` is reported.
    """

    age: Tensor

    def __init__(self, size: int, window: int = 500) -> None:
        super().__init__()
        self.window = window
        self.register_buffer("age", torch.full((size,), window, dtype=torch.int32))

    @torch.no_grad()
    def observe(self, counts: Tensor) -> None:
        """Take in the counts ``(size,)`` of one training batch, over all ranks."""
        self.age.add_(1).masked_fill_(counts > 0, 0)

    @torch.no_grad()
    def metrics(self, counts: Tensor, restarts: Tensor | None = None) -> dict[str, Tensor]:
        """Scalars for a batch with ``counts (size,)``.

        ``perplexity`` (``exp`` of the entropy of the counts) and ``usage`` (share of codes used) of the batch,
        ``usage_window`` (share of codes used in the last ``window`` training steps), ``restarts`` in this step.
        """
        share = counts / counts.sum().clamp(min=1)
        return {
            "perplexity": torch.exp(-torch.xlogy(share, share).sum()),
            "usage": (counts > 0).float().mean(),
            "usage_window": (self.age < self.window).float().mean(),
            "restarts": counts.new_zeros(()) if restarts is None else restarts,
        }
