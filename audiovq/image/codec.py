"""The image codec: VQ-VAE with one level of codes, VQ-VAE-2 with two or more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.errors import AudioVQError
from audiovq.image.blocks import Decoder
from audiovq.image.level import Level
from audiovq.image.likelihood import LIKELIHOODS
from audiovq.image.tiles import tiles
from audiovq.quantize import Quantized


@dataclass
class EncodedImage:
    """Pictures as codes.

    Attributes:
        codes: one (B, K, h, w) int64 for each level, coarse to fine.
        size: height and width of the pictures in pixels.
    """

    codes: tuple[Tensor, ...]
    size: tuple[int, int]


class PixelDecoder(nn.Module):
    """Quantized latents of all levels -> the parameters of each pixel's distribution."""

    def __init__(
        self, strides: Sequence[int], dims: Sequence[int], channels: int, residual: int, n_residual: int, out: int
    ) -> None:
        super().__init__()
        finest = strides[-1]
        self.raise_ = nn.ModuleList(
            nn.Upsample(scale_factor=stride // finest) if stride > finest else nn.Identity() for stride in strides
        )
        self.net = Decoder(sum(dims), channels, out, finest, residual, n_residual)

    def forward(self, latents: Sequence[Tensor]) -> Tensor:
        """(B, D_i, h_i, w_i) of each level, coarse to fine -> (B, out, H, W)."""
        raised = [module(x) for module, x in zip(self.raise_, latents, strict=True)]
        return self.net(torch.cat(raised, dim=1))


class ImageCodec(nn.Module):
    """Pictures to discrete codes and back.

    With one level it is the VQ-VAE of van den Oord et al. (2017, section 4.1): strided 4x4 convolutions, residual
    blocks, the quantizer, and the way back with transposed convolutions. With more it is VQ-VAE-2 (Razavi et al. 2019,
    section 3.1): a coarse level is quantized first, the next finer one is quantized given it, the decoder reads all.

    Users' pictures are coded one by one, large ones in tiles on a fixed grid, so that codes do not depend on what else
    is in a batch.

    Args:
        levels: coarse to fine, each with ``stride`` (pixels), ``latent_dim`` and ``quantizer`` (arguments of
            `audiovq.image.level.make_quantizer`).
        channels, residual, n_residual: hidden channels, those inside the residual blocks, and their number.
        image_channels: 3 for colour, 1 for grey.
        likelihood: "gaussian" (squared error) or "logistic" (discretized, over 256 levels).
        name: the model's name, for messages.
        tile: pictures larger than this are coded in tiles, pixels.
    """

    def __init__(
        self,
        levels: Sequence[dict[str, Any]],
        channels: int = 128,
        residual: int = 64,
        n_residual: int = 2,
        image_channels: int = 3,
        likelihood: str = "gaussian",
        name: str = "unnamed",
        tile: int = 512,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(  # noqa: C408
            levels=[dict(level) for level in levels],
            channels=channels,
            residual=residual,
            n_residual=n_residual,
            image_channels=image_channels,
            likelihood=likelihood,
            name=name,
            tile=tile,
        )
        strides = [int(level["stride"]) for level in levels]
        if not strides or any(a <= b or a % b for a, b in pairwise(strides)):
            raise AudioVQError(f"levels go from coarse to fine in powers of two, got strides {strides}")
        if likelihood not in LIKELIHOODS:
            raise AudioVQError(f"no likelihood {likelihood!r}: there are {', '.join(LIKELIHOODS)}")
        if tile % strides[0]:
            raise AudioVQError(f"tiles of {tile} pixels are no multiple of the stride {strides[0]}")
        self.name, self.image_channels, self.tile = name, image_channels, tile
        self.stages = nn.ModuleList(
            Level(
                in_channels=image_channels if i == len(levels) - 1 else channels,
                channels=channels,
                residual=residual,
                n_residual=n_residual,
                factor=strides[i] // (strides[i + 1] if i + 1 < len(levels) else 1),
                latent_dim=level["latent_dim"],
                quantizer=dict(level["quantizer"]),
                coarser_dim=channels if i else 0,
                context=i + 1 < len(levels),
            )
            for i, level in enumerate(levels)
        )
        self.likelihood = LIKELIHOODS[likelihood]()
        dims = [level["latent_dim"] for level in levels]
        out = self.likelihood.n_parameters * image_channels
        self.decoder = PixelDecoder(strides, dims, channels, residual, n_residual, out)
        quantizers: list[Any] = [stage.quantizer for stage in self.stages]
        #: (codebooks, entries of each, stride in pixels) of each level, coarse to fine.
        self.levels = [(q.n_codebooks, q.codebook_size, s) for q, s in zip(quantizers, strides, strict=True)]
        #: See `audiovq.image.checkpoint.codes_hash`; files carry it. Zero for a model that was not loaded.
        self.model_hash = b"\0\0\0\0"
        #: Where it was loaded from.
        self.folder: Path | None = None

    @property
    def stride(self) -> int:
        """Of the coarsest level: pictures are padded to multiples of it."""
        return self.levels[0][2]

    # -- what a trainer calls ---------------------------------------------------------------------------------------

    def features(self, x: Tensor) -> list[Tensor]:
        """Pictures (B, C, H, W) in [-1, 1] -> the encoders' outputs, coarse to fine."""
        found: list[Tensor] = []
        for stage in reversed(self._stages()):
            x = stage.encoder(x)
            found.insert(0, x)
        return found

    def forward(self, images: Tensor) -> tuple[Tensor, list[Quantized]]:
        """Pictures (B, C, H, W) in [0, 1], sides multiples of the stride -> the pixels' parameters, and each level."""
        quantized: list[Quantized] = []
        coarser = None
        for stage, features in zip(self._stages(), self.features(2 * images - 1), strict=True):
            quantized.append(stage.quantizer(stage.latents(features, coarser)))
            coarser = stage.context(quantized[-1].latents) if stage.context is not None else None
        return self.decoder([q.latents for q in quantized]), quantized

    def nll(self, parameters: Tensor, images: Tensor) -> Tensor:
        """Nats of each value of pictures in [0, 1]: (B, C, H, W)."""
        return self.likelihood.nll(parameters, 2 * images - 1)

    def picture(self, parameters: Tensor) -> Tensor:
        """The picture that parameters stand for: (B, C, H, W) in [0, 1]."""
        return (0.5 * self.likelihood.picture(parameters) + 0.5).clamp(0, 1)

    @torch.no_grad()
    def codes_of(self, images: Tensor) -> tuple[Tensor, ...]:
        """Codes of a whole batch at once, sides multiples of the stride: quicker than `encode`, rounded otherwise."""
        codes: list[Tensor] = []
        coarser = None
        for stage, features in zip(self._stages(), self.features(2 * images - 1), strict=True):
            codes.append(stage.quantizer.encode(stage.latents(features, coarser)))
            if stage.context is not None:
                coarser = stage.context(stage.quantizer.decode(codes[-1]))
        return tuple(codes)

    def latents_of(self, codes: Sequence[Tensor]) -> list[Tensor]:
        """Codes of each level (B, K, h, w) -> quantized latents (B, D, h, w), coarse to fine."""
        return [stage.quantizer.decode(c) for stage, c in zip(self._stages(), codes, strict=True)]

    @torch.no_grad()
    def pictures_of(self, codes: Sequence[Tensor]) -> Tensor:
        """Codes of a whole batch -> pictures (B, C, H, W) in [0, 1], sides multiples of the stride."""
        return self.picture(self.decoder(self.latents_of(codes)))

    # -- what users call --------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None) -> ImageCodec:
        """Load a bundled image model by name (default: ``photo``) or a folder with config and weights.

        Raises:
            AudioVQError: when there is no such model, or its files are damaged.
        """
        from audiovq.image.checkpoint import load_image_codec

        return load_image_codec(name_or_dir)

    def save(self, folder: str | Path, dtype: Any = None) -> None:
        """Write ``config.json`` and ``model.safetensors``; weights as ``dtype``, float16 by default."""
        from audiovq.weights import save_weights

        save_weights(self, folder, dtype)

    def grid(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Height and width of each level's codes, coarse to fine, for pictures of this size in pixels."""
        height, width = (-(-edge // self.stride) * self.stride for edge in size)
        return [(height // stride, width // stride) for _, _, stride in self.levels]

    def bits(self, size: tuple[int, int]) -> int:
        """Bits of a picture's codes without entropy coding."""
        books = [(k * (n - 1).bit_length()) for k, n, _ in self.levels]
        return sum(h * w * b for (h, w), b in zip(self.grid(size), books, strict=True))

    @torch.inference_mode()
    def encode(self, images: Tensor) -> EncodedImage:
        """Pictures (B, C, H, W) in [0, 1] of any size -> codes. Edges are repeated up to a multiple of the stride.

        Raises:
            AudioVQError: for another number of channels, no pixels, or values that are not finite.
        """
        if images.dim() != 4 or images.shape[1] != self.image_channels or 0 in images.shape:
            raise AudioVQError(
                f"model {self.name} codes pictures (B, {self.image_channels}, H, W), got {tuple(images.shape)}"
            )
        if not bool(torch.isfinite(images).all()):
            raise AudioVQError("the picture has values that are no numbers")
        height, width = images.shape[2:]
        right, below = -width % self.stride, -height % self.stride
        padded = F.pad(images.float(), (0, right, 0, below), mode="replicate")
        codes = [
            padded.new_zeros((len(padded), k, *grid), dtype=torch.int64)
            for (k, _, _), grid in zip(self.levels, self.grid((height, width)), strict=True)
        ]
        for i in range(len(padded)):
            for tile in tiles(padded.shape[2], padded.shape[3], self.tile, self.halo):
                found = self.codes_of(tile.cut(padded[i : i + 1]))
                for whole, part, (_, _, stride) in zip(codes, found, self.levels, strict=True):
                    tile.paste(whole[i : i + 1], part, stride)
        return EncodedImage(tuple(codes), (height, width))

    @torch.inference_mode()
    def decode(self, encoded: EncodedImage) -> Tensor:
        """Codes -> pictures (B, C, H, W) in [0, 1], of the size they had.

        Raises:
            AudioVQError: for codes that do not fit the model or the size.
        """
        grids = self.grid(encoded.size)
        expected = [(k, *grid) for (k, _, _), grid in zip(self.levels, grids, strict=True)]
        if [tuple(c.shape[1:]) for c in encoded.codes] != expected:
            raise AudioVQError(f"model {self.name} needs codes of shapes {expected} for pictures of {encoded.size}")
        height, width = (edge * self.stride for edge in grids[0])
        n = len(encoded.codes[0])
        images = torch.empty(n, self.image_channels, height, width, device=encoded.codes[0].device)
        for i in range(n):
            for tile in tiles(height, width, self.tile, self.halo):
                own = [
                    tile.cut(c[i : i + 1], stride) for c, (_, _, stride) in zip(encoded.codes, self.levels, strict=True)
                ]
                tile.paste(images[i : i + 1], self.pictures_of(own))
        return images[:, :, : encoded.size[0], : encoded.size[1]]

    @property
    def halo(self) -> int:
        """Pixels around a tile that its codes or pixels may depend on, rounded up to the stride."""
        return (8 + 4 * self.config["n_residual"]) * self.stride

    def _stages(self) -> list[Level]:
        return [stage for stage in self.stages if isinstance(stage, Level)]
