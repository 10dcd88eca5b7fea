"""What every quantizer returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from audiovq.errors import AudioVQError


class QuantizerError(AudioVQError, ValueError):
    """Latents, codes or settings that a quantizer cannot work with."""


@dataclass
class Quantized:
    """Latents after quantization, and what is known about them.

    Attributes:
        latents: ``(B, C, *dims)``, bit for bit what ``quantizer.decode(codes)`` gives.
        codes: ``(B, K, *dims)`` int64, codebooks from coarse to fine. -1 stands for "no code": that codebook adds
            nothing there (quantizer dropout, or a codebook that waits for its first data).
        loss: scalar, ready to be added to the reconstruction loss.
        metrics: scalars to log: always ``perplexity``, ``usage``, ``usage_window`` and ``restarts``.
    """

    latents: Tensor
    codes: Tensor
    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
