"""Weights in 8 bits: int8 rows, and a scale for each row beside them."""

from __future__ import annotations

import torch
from torch import Tensor

SCALE = ".row_scale"
"""The scales of the tensor NAME are stored as ``NAME.row_scale``."""


def round_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(..., O, I) -> int8 of the same shape and scales (..., O): each row's largest magnitude becomes 127."""
    weight = weight.detach().float()
    scale = weight.abs().amax(-1).clamp_min(1e-12) / 127
    return (weight / scale[..., None]).round().clamp(-127, 127).to(torch.int8), scale


def restore_rows(rows: Tensor, scale: Tensor) -> Tensor:
    """What `round_rows` gave -> float32; scales of fewer dimensions are for all that lies below theirs."""
    return rows.float() * scale.view(*scale.shape, *[1] * (rows.dim() - scale.dim()))


def restore(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file, with those in 8 bits and all floating-point ones in float32 and the scales gone."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            continue
        scale = tensors.get(name + SCALE)
        if scale is not None:
            found[name] = restore_rows(tensor, scale)
        else:
            found[name] = tensor.float() if tensor.is_floating_point() else tensor
    return found
