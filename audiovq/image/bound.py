"""Bits per dimension as a bound: what a lossless code would take, in two parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from audiovq.image.codec import ImageCodec


@dataclass
class Bound:
    """The two parts of ``-log p(x) <= E_q[-log p(x | z)] + KL(q(z | x) || p(z))`` for each picture.

    Attributes:
        pixels: (B,) nats, the first part.
        latents: (B,) nats, the second. A quantizer's posterior is certain and its prior uniform: log K for each code.
        loss: scalar, what training adds besides (the quantizers' losses).
        metrics: scalars to log.
        picture: (B, C, H, W) in [0, 1].
    """

    pixels: Tensor
    latents: Tensor
    loss: Tensor
    picture: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def bits_per_dim(self) -> Tensor:
        """(B,), both parts over the number of values of a picture."""
        return (self.pixels + self.latents) / (self.picture[0].numel() * math.log(2))


def bound_of(model: Any, images: Tensor) -> Bound:
    """The bound of an `ImageCodec`, or of a baseline that has one of its own, on pictures (B, C, H, W) in [0, 1]."""
    if not isinstance(model, ImageCodec):
        return model.bound(images)
    parameters, quantized = model(images)
    codes = sum(q.codes[0].numel() * math.log(n) for q, (_, n, _) in zip(quantized, model.levels, strict=True))
    pixels = model.nll(parameters, images).flatten(1).sum(1)
    metrics = {
        f"{name}/{i}": q.metrics[name] for i, q in enumerate(quantized) for name in ("perplexity", "usage_window")
    }
    loss = torch.stack([q.loss for q in quantized]).sum()
    return Bound(pixels, torch.full_like(pixels, float(codes)), loss, model.picture(parameters), metrics)
