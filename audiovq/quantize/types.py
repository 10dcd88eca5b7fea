"""Result, error and argument checks that all quantizers share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from audiovq.errors import AudioVQError


class QuantizerError(AudioVQError, ValueError):
    """Latents, codes or settings that a quantizer cannot work with."""


@dataclass
class Quantized:
    """Result of a quantizer's forward pass.

    Attributes:
        latents: ``(B, C, *dims)``, bit for bit the latents that ``quantizer.decode(codes)`` gives.
        codes: ``(B, K, *dims)`` int64, codebooks from coarse to fine. -1 stands for "no code": that codebook adds
            nothing there (quantizer dropout, or a codebook that waits for its first data).
        loss: scalar, to be added to the reconstruction loss.
        metrics: scalars to log: always ``perplexity``, ``usage``, ``usage_window`` and ``restarts``.
        n_codebooks: ``(B,)`` int64 on the host, codebooks of each item that are in use; None where it is not reported.
    """

    latents: Tensor
    codes: Tensor
    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    n_codebooks: Tensor | None = None


def check_latents(latents: Tensor, channels: int) -> None:
    """Check that latents are floating-point ``(B, channels, *dims)``.

    Raises:
        QuantizerError: when they are not.
    """
    if latents.dim() < 2 or latents.shape[1] != channels or not latents.is_floating_point():
        raise QuantizerError(
            f"latents must be floats (B, {channels}, *dims), not {latents.dtype} {tuple(latents.shape)}"
        )


def check_n_codebooks(n_codebooks: int | None, available: int) -> None:
    """Check a requested number of codebooks; None asks for all.

    Raises:
        QuantizerError: when it is not from 1 to ``available``.
    """
    if n_codebooks is not None and not 1 <= n_codebooks <= available:
        raise QuantizerError(f"n_codebooks must be from 1 to {available}, not {n_codebooks}")


def check_codes(codes: Tensor, size: int, available: int) -> None:
    """Check that codes are int64 ``(B, 1..available, *dims)`` in ``[-1, size)``.

    Raises:
        QuantizerError: when they are not.
    """
    if codes.dim() < 2 or not 1 <= codes.shape[1] <= available or codes.dtype != torch.int64:
        raise QuantizerError(f"codes must be int64 (B, 1..{available}, *dims), not {codes.dtype} {tuple(codes.shape)}")
    if codes.numel() and (int(codes.max()) >= size or int(codes.min()) < -1):
        raise QuantizerError(f"codes must be below {size} (or -1 for none)")
