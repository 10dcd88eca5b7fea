"""Weights in 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor


def round_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(..., O, I) -> int8 of the same shape and scales (..., O): each row's largest magnitude becomes 127."""
    weight = weight.detach().float()
    scale = weight.abs().amax(-1).clamp_min(1e-12) / 127
    return (weight / scale[..., None]).round().clamp(-127, 127).to(torch.int8), scale


def restore_rows(rows: Tensor, scale: Tensor) -> Tensor:
    """What `round_rows` gave -> float32."""
    return rows.float() * scale[..., None]
