"""The image codec: VQ-VAE with one level of codes, VQ-VAE-2 with two or more; tiles for images of any size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.devices import arguments, check_float32, full_precision
from audiovq.errors import AudioVQError
from audiovq.hub import load_codec, model_folder
from audiovq.image.nets import LIKELIHOODS, Bound, Level, PixelDecoder
from audiovq.nn import Stored
from audiovq.quantize import Quantized


@dataclass(frozen=True)
class Tile:
    """A rectangle of an image, in pixels.

    Attributes:
        top, left, bottom, right: edges of the rectangle.
        around: edges, in the same order, of the larger rectangle that it is computed from.
    """

    top: int
    left: int
    bottom: int
    right: int
    around: tuple[int, int, int, int]

    def cut(self, x: Tensor, stride: int = 1) -> Tensor:
        """(..., H / stride, W / stride) -> the part that the tile is computed from."""
        top, left, bottom, right = (edge // stride for edge in self.around)
        return x[..., top:bottom, left:right]

    def paste(self, target: Tensor, part: Tensor, stride: int = 1) -> None:
        """Copy the tile from ``part``, the result for the larger rectangle, into the whole image ``target``."""
        top, left, bottom, right = (edge // stride for edge in (self.top, self.left, self.bottom, self.right))
        y, x = top - self.around[0] // stride, left - self.around[1] // stride
        target[..., top:bottom, left:right] = part[..., y : y + bottom - top, x : x + right - left]


def tiles(height: int, width: int, size: int, halo: int) -> Iterator[Tile]:
    """Tiles of ``size`` pixels, row by row, with a margin of ``halo`` pixels that ends at the edges of the image."""
    for top in range(0, height, size):
        for left in range(0, width, size):
            bottom, right = min(top + size, height), min(left + size, width)
            around = (max(top - halo, 0), max(left - halo, 0), min(bottom + halo, height), min(right + halo, width))
            yield Tile(top, left, bottom, right, around)


@dataclass
class EncodedImage:
    """Codes of a batch of images.

    Attributes:
        codes: one (B, K, h, w) int64 for each level, coarse to fine.
        size: height and width of the images in pixels.
    """

    codes: tuple[Tensor, ...]
    size: tuple[int, int]


class ImageCodec(Stored, nn.Module):
    """Images to discrete codes and back.

    With one level it is the VQ-VAE of van den Oord et al. (2017, section 4.1): strided 4x4 convolutions, residual
    blocks, the quantizer, and a decoder of transposed convolutions. With more it is VQ-VAE-2 (Razavi et al. 2019,
    section 3.1): the coarsest level is quantized first, each finer one given the coarser, and the decoder reads all.

    `encode` takes images one by one, large ones in tiles on a fixed grid, so that codes do not depend on the rest of
    the batch.

    Args:
        levels: coarse to fine, each with ``stride`` (pixels), ``latent_dim`` and ``quantizer`` (arguments of
            `audiovq.image.nets.make_quantizer`).
        channels, residual, n_residual: hidden channels, those inside the residual blocks, and their number.
        image_channels: 3 for RGB, 1 for grey.
        likelihood: "gaussian" (squared error) or "logistic" (discretized, over 256 levels).
        name: the model's name, for messages.
        tile: size of tiles in pixels; larger images are encoded in tiles.

    Raises:
        AudioVQError: for strides, a likelihood or a tile size that do not fit.
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
        self.config: dict[str, Any] = arguments(locals())
        strides = [int(level["stride"]) for level in levels]
        if not strides or any(a <= b or a % b for a, b in pairwise(strides)):
            raise AudioVQError(
                f"levels go from coarse to fine, each stride a multiple of the next; got strides {strides}"
            )
        if likelihood not in LIKELIHOODS:
            raise AudioVQError(f"unknown likelihood {likelihood!r}; choose from {', '.join(LIKELIHOODS)}")
        if tile % strides[0]:
            raise AudioVQError(f"the tile size of {tile} pixels is no multiple of the stride {strides[0]}")
        self.name, self.image_channels, self.tile = name, image_channels, tile
        self.stages = nn.ModuleList(
            Level(
                in_channels=image_channels if i == len(levels) - 1 else channels,
                channels=channels,
                residual=residual,
                n_residual=n_residual,
                factor=strides[i] // (strides[i + 1] if i + 1 < len(levels) else 1),
                latent_dim=level["latent_dim"],
                quantizer=level["quantizer"],
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
        #: (codebooks, codebook size, stride in pixels) of each level, coarse to fine.
        self.levels = [(q.n_codebooks, q.codebook_size, s) for q, s in zip(quantizers, strides, strict=True)]
        #: See `audiovq.hub.codes_hash`; stored in files. Zero for a model that was not loaded.
        self.model_hash = b"\0\0\0\0"
        #: Frames of a code.
        self.time_stride = 1
        #: Folder that it was loaded from.
        self.folder: Path | None = None

    @property
    def stride(self) -> int:
        """Stride of the coarsest level in pixels: images are padded to multiples of it."""
        return self.levels[0][2]

    # -- batches, for training and evaluation -------------------------------------------------------------------------

    def features(self, x: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) in [-1, 1] -> the encoders' outputs, coarse to fine."""
        features: list[Tensor] = []
        for stage in reversed(self._stages()):
            x = stage.encoder(x)
            features.insert(0, x)
        return features

    def forward(self, images: Tensor) -> tuple[Tensor, list[Quantized]]:
        """Images (B, C, H, W) in [0, 1], sides multiples of the stride -> parameters of the pixels, and each level."""
        quantized: list[Quantized] = []
        coarser = None
        for stage, features in zip(self._stages(), self.features(2 * images - 1), strict=True):
            quantized.append(stage.quantizer(stage.latents(features, coarser)))
            coarser = stage.context(quantized[-1].latents) if stage.context is not None else None
        return self.decoder([q.latents for q in quantized]), quantized

    def nll(self, parameters: Tensor, images: Tensor) -> Tensor:
        """Nats of each value of images in [0, 1]: (B, C, H, W)."""
        return self.likelihood.nll(parameters, 2 * images - 1)

    def bound(self, images: Tensor) -> Bound:
        """The variational bound of images (B, C, H, W) in [0, 1], sides multiples of the stride."""
        parameters, quantized = self(images)
        codes = sum(q.codes[0].numel() * math.log(n) for q, (_, n, _) in zip(quantized, self.levels, strict=True))
        pixels = self.nll(parameters, images).flatten(1).sum(1)
        names = ("perplexity", "usage_window")
        metrics = {f"{name}/{i}": q.metrics[name] for i, q in enumerate(quantized) for name in names}
        loss = torch.stack([q.loss for q in quantized]).sum()
        return Bound(pixels, torch.full_like(pixels, float(codes)), loss, self.mean_image(parameters), metrics)

    def mean_image(self, parameters: Tensor) -> Tensor:
        """Parameters of the pixels -> the mean of their distribution, (B, C, H, W) in [0, 1]."""
        return (0.5 * self.likelihood.mean(parameters) + 0.5).clamp(0, 1)

    @full_precision
    def encode_batch(self, images: Tensor) -> tuple[Tensor, ...]:
        """Codes (B, K, h, w) of each level for images in [0, 1], sides multiples of the stride, all at once.

        Faster than `encode`, but rounding, and with it a code at a tie, depends on the shape of the batch.
        """
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

    @full_precision
    def decode_batch(self, codes: Sequence[Tensor]) -> Tensor:
        """Codes (B, K, h, w) of each level -> images (B, C, H, W) in [0, 1], all at once, without tiles."""
        return self.mean_image(self.decoder(self.latents_of(codes)))

    # -- any images ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None) -> ImageCodec:
        """Load a bundled image model by name (default: ``photo``) or a folder with config and weights.

        Raises:
            AudioVQError: when there is no such model, or its files are damaged.
        """
        return load_codec(cls, model_folder(name_or_dir, "image"))

    def grid(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Height and width of each level's codes, coarse to fine, for images of this size in pixels."""
        height, width = (-(-edge // self.stride) * self.stride for edge in size)
        return [(height // stride, width // stride) for _, _, stride in self.levels]

    def bits(self, size: tuple[int, int]) -> int:
        """Bits of an image's codes without entropy coding."""
        bits = [(k * (n - 1).bit_length()) for k, n, _ in self.levels]
        return sum(h * w * b for (h, w), b in zip(self.grid(size), bits, strict=True))

    @full_precision
    def encode(self, images: Tensor) -> EncodedImage:
        """Encode images (B, C, H, W) of any size, float in [0, 1] or uint8. Edges are repeated up to the stride.

        Raises:
            AudioVQError: for another shape or type, values outside of [0, 1] or not finite, and weights that are not
                float32.
        """
        check_float32(self)
        images = check_pixels(images, self.image_channels, "images (B, {}, H, W)", self.name)
        height, width = images.shape[2:]
        right, below = -width % self.stride, -height % self.stride
        padded = F.pad(images, (0, right, 0, below), mode="replicate")
        codes = [
            padded.new_zeros((len(padded), k, *grid), dtype=torch.int64)
            for (k, _, _), grid in zip(self.levels, self.grid((height, width)), strict=True)
        ]
        for i in range(len(padded)):
            for tile in tiles(padded.shape[2], padded.shape[3], self.tile, self.halo):
                parts = self.encode_batch(tile.cut(padded[i : i + 1]))
                for target, part, (_, _, stride) in zip(codes, parts, self.levels, strict=True):
                    tile.paste(target[i : i + 1], part, stride)
        return EncodedImage(tuple(codes), (height, width))

    @full_precision
    def decode(self, encoded: EncodedImage) -> Tensor:
        """Decode to images (B, C, H, W) in [0, 1] of their original size.

        Raises:
            AudioVQError: for codes that do not fit the model or the size, and weights that are not float32.
        """
        check_float32(self)
        grids = self.grid(encoded.size)
        expected = [(k, *grid) for (k, _, _), grid in zip(self.levels, grids, strict=True)]
        if [tuple(c.shape[1:]) for c in encoded.codes] != expected:
            raise AudioVQError(f"model {self.name} needs codes of shapes {expected} for images of {encoded.size}")
        height, width = (edge * self.stride for edge in grids[0])
        n = len(encoded.codes[0])
        images = torch.empty(n, self.image_channels, height, width, device=encoded.codes[0].device)
        for i in range(n):
            for tile in tiles(height, width, self.tile, self.halo):
                levels = zip(encoded.codes, self.levels, strict=True)
                parts = [tile.cut(codes[i : i + 1], stride) for codes, (_, _, stride) in levels]
                tile.paste(images[i : i + 1], self.decode_batch(parts))
        return images[:, :, : encoded.size[0], : encoded.size[1]]

    @property
    def halo(self) -> int:
        """Pixels around a tile that its codes or pixels may depend on, rounded up to the stride."""
        return (8 + 4 * self.config["n_residual"]) * self.stride

    def _stages(self) -> list[Level]:
        return [stage for stage in self.stages if isinstance(stage, Level)]

    def encode_frames(self, frames: np.ndarray) -> tuple[np.ndarray, ...]:
        """Frames (T, H, W, 3) uint8 -> codes of each level, (K, T, h, w) int64."""
        # One by one: floats take four times the memory of bytes.
        encoded = [self.encode(from_bytes(frames[t : t + 1])).codes for t in range(len(frames))]
        return tuple(torch.cat(level).transpose(0, 1).numpy() for level in zip(*encoded, strict=True))

    def decode_frames(self, codes: Sequence[np.ndarray], size: tuple[int, int], n_frames: int) -> np.ndarray:
        """Codes of each level, (K, T, h, w) -> frames (T, H, W, 3) uint8."""
        tensors = [torch.from_numpy(np.ascontiguousarray(part.transpose(1, 0, 2, 3))) for part in codes]
        frames = (EncodedImage(tuple(level[t : t + 1] for level in tensors), size) for t in range(n_frames))
        return np.concatenate([to_bytes(self.decode(frame)) for frame in frames])


def check_pixels(pixels: Tensor, channels: int, shape: str, model: str) -> Tensor:
    """Check images or video clips (B, channels, *dims) and convert them to float32 in [0, 1]; uint8 is divided by 255.

    For messages, ``model`` is the model's name, ``shape`` what it expects, with {} for the channels. Raises
    `AudioVQError` for another shape or type, no pixels, and values that are not finite or far from [0, 1].
    """
    shape = shape.format(channels)
    if pixels.dim() != shape.count(",") + 1 or pixels.shape[1] != channels or 0 in pixels.shape:
        raise AudioVQError(f"model {model} encodes {shape}, got shape {tuple(pixels.shape)}")
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    if not pixels.is_floating_point():
        raise AudioVQError(f"model {model} encodes {shape} as float in [0, 1] or uint8, got {pixels.dtype}")
    low, high = (float(x) for x in pixels.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise AudioVQError(f"model {model} encodes {shape} as float in [0, 1], got values that are not finite")
    if low < -0.5 or high > 1.5:  # interpolation may overshoot a little; these are in another range
        raise AudioVQError(f"model {model} encodes {shape} as float in [0, 1], got values from {low:g} to {high:g}")
    return pixels.float()


def from_bytes(frames: np.ndarray) -> Tensor:
    """Frames (T, H, W, 3) uint8 -> (T, 3, H, W) in [0, 1]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def to_bytes(pixels: Tensor) -> np.ndarray:
    """Frames (T, 3, H, W) in [0, 1] -> (T, H, W, 3) uint8."""
    return (pixels * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
