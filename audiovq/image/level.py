"""One level of an image codec: an encoder from what is finer, a quantizer, and what finer levels are told."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from audiovq.errors import AudioVQError
from audiovq.image.blocks import Decoder, Encoder
from audiovq.quantize import ProductQuantizer, ResidualVectorQuantizer

QUANTIZERS: dict[str, Any] = {"residual": ResidualVectorQuantizer, "product": ProductQuantizer}


def make_quantizer(latent_dim: int, kind: str = "residual", n_codebooks: int = 1, **settings: Any) -> nn.Module:
    """A quantizer for latents of ``latent_dim`` channels; with one codebook both kinds are plain vector quantization.

    Raises:
        AudioVQError: for another kind.
    """
    if kind not in QUANTIZERS:
        raise AudioVQError(f"no quantizer {kind!r} for pictures: there are {', '.join(QUANTIZERS)}")
    return QUANTIZERS[kind](latent_dim, n_codebooks=n_codebooks, **settings)


class Level(nn.Module):
    """Latents of one resolution.

    Args:
        in_channels: of what the encoder reads: the picture, or the features of the next finer level.
        channels, residual, n_residual: of the networks.
        factor: by how much this level is coarser than what it reads.
        latent_dim, quantizer: what is quantized, and how.
        coarser_dim: channels of the context from the next coarser level; 0 for the coarsest.
        context: whether a finer level is to be told what these latents hold.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        residual: int,
        n_residual: int,
        factor: int,
        latent_dim: int,
        quantizer: dict[str, Any],
        coarser_dim: int,
        context: bool,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(in_channels, channels, factor, residual, n_residual)
        self.project = nn.Conv2d(channels + coarser_dim, latent_dim, 1)
        self.quantizer: Any = make_quantizer(latent_dim, **quantizer)
        self.context: Any = None
        if context:
            self.context = Decoder(latent_dim, channels, channels, factor, residual, n_residual)

    def latents(self, features: Tensor, coarser: Tensor | None) -> Tensor:
        """(B, channels, h, w) and the coarser level's context of the same size -> (B, latent_dim, h, w)."""
        return self.project(features if coarser is None else torch.cat([features, coarser], 1))
