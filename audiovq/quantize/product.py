"""Product quantization: several latents at each position, one codebook for all."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from audiovq.quantize.types import Quantized, QuantizerError
from audiovq.quantize.vector import VectorQuantizer


class ProductQuantizer(nn.Module):
    """``n_codebooks`` discrete latents at each position, all from one codebook, such as the field of 8x8x10 latents in
    van den Oord et al. 2017, section 4.1.

    The channels are split into ``n_codebooks`` groups, each a separate latent; code k of a position is that of group k.

    Args:
        channels: ``C`` of the latents, a multiple of ``n_codebooks``.
        n_codebooks: number of groups.
        settings: further arguments of `VectorQuantizer`.

    Raises:
        QuantizerError: settings, latents or codes that do not fit.
    """

    def __init__(self, channels: int, n_codebooks: int, **settings: Any) -> None:
        super().__init__()
        if n_codebooks < 1 or channels % n_codebooks:
            raise QuantizerError(f"{channels} channels cannot be split into {n_codebooks} groups")
        self.channels, self.n_codebooks = channels, n_codebooks
        self.vector = VectorQuantizer(channels // n_codebooks, **settings)
        self.codebook_size = self.vector.codebook_size

    def forward(self, latents: Tensor, n_codebooks: int | None = None) -> Quantized:
        """Quantize ``latents (B, C, *dims)``; see `VectorQuantizer.forward`."""
        quantized = self.vector(self._groups(latents, n_codebooks))
        return Quantized(self._joined(quantized.latents), quantized.codes[:, 0], quantized.loss, quantized.metrics)

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Codes ``(B, K, *dims)`` of ``latents (B, C, *dims)``."""
        return self.vector.encode(self._groups(latents, n_codebooks))[:, 0]

    def decode(self, codes: Tensor) -> Tensor:
        """Latents ``(B, C, *dims)`` of ``codes (B, K, *dims)``."""
        if codes.shape[1] != self.n_codebooks:
            raise QuantizerError(f"a product quantizer needs all of its {self.n_codebooks} codes at each position")
        return self._joined(self.vector.decode(codes[:, None]))

    def _groups(self, latents: Tensor, n_codebooks: int | None) -> Tensor:
        """(B, C, *dims) -> (B, C / K, K, *dims)."""
        if n_codebooks not in (None, self.n_codebooks):
            raise QuantizerError(f"a product quantizer uses all of its {self.n_codebooks} codebooks")
        if latents.dim() < 2 or latents.shape[1] != self.channels:
            raise QuantizerError(f"latents must be (B, {self.channels}, *dims), got {tuple(latents.shape)}")
        return latents.unflatten(1, (self.n_codebooks, -1)).transpose(1, 2)

    def _joined(self, groups: Tensor) -> Tensor:
        """(B, C / K, K, *dims) -> (B, C, *dims)."""
        return groups.transpose(1, 2).flatten(1, 2)
