"""The codec for video clips: VQ-VAE with 3-D convolutions, which also compresses time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.devices import arguments, check_float32, full_precision
from audiovq.errors import AudioVQError
from audiovq.hub import load_codec, read_config
from audiovq.image.codec import check_pixels, from_bytes, to_bytes
from audiovq.image.nets import Gaussian, ResidualBlock, halvings, make_quantizer
from audiovq.nn import Stored
from audiovq.quantize import Quantized


@dataclass
class EncodedClip:
    """Codes of a batch of video clips.

    Attributes:
        codes: (B, K, t, h, w) int64.
        size: frames, height and width in pixels.
    """

    codes: Tensor
    size: tuple[int, int, int]


class ClipCodec(Stored, nn.Module):
    """Video clips to discrete codes and back: one code per ``time_stride`` frames of ``stride`` x ``stride`` pixels.

    The networks are those of van den Oord et al. (2017, section 4.1) with a third dimension; the quantizers are those
    for speech and images. Each clip is encoded independently of the frames before and after it.

    Args:
        stride, time_stride: powers of two, at least 2; the time stride is at most the stride.
        latent_dim: channels of the latents.
        quantizer: arguments of `audiovq.image.nets.make_quantizer`.
        channels, residual, n_residual: hidden channels, those inside the residual blocks, and their number.
        name: the model's name, for messages.

    Raises:
        AudioVQError: for other strides.
    """

    image_channels = 3

    def __init__(
        self,
        stride: int = 4,
        time_stride: int = 2,
        latent_dim: int = 64,
        quantizer: dict[str, Any] | None = None,
        channels: int = 64,
        residual: int = 32,
        n_residual: int = 2,
        name: str = "unnamed",
    ) -> None:
        super().__init__()
        quantizer = quantizer or {"codebook_size": 512}
        self.config: dict[str, Any] = arguments(locals())
        try:
            steps, in_time = len(halvings(stride)), len(halvings(time_stride))
        except ValueError as error:
            raise AudioVQError(str(error)) from None
        if in_time > steps:
            raise AudioVQError(f"the time stride is at most the stride, got {time_stride} and {stride}")
        self.name, self.stride, self.time_stride = name, stride, time_stride
        # Strides in time come last, where there are fewest pixels.
        kernels = [(4, 4, 4) if i >= steps - in_time else (3, 4, 4) for i in range(steps)]
        widths = [self.image_channels, *(max(channels >> (steps - 1 - i), 16) for i in range(steps))]
        encoder: list[nn.Module] = []
        for i, kernel in enumerate(kernels):
            halved = (kernel[0] // 2, 2, 2)
            encoder += [nn.Conv3d(widths[i], widths[i + 1], kernel, halved, 1), nn.ReLU()]
        encoder += [nn.Conv3d(widths[-1], channels, 3, padding=1)]
        encoder += [ResidualBlock(channels, residual, nn.Conv3d) for _ in range(n_residual)]
        self.encoder = nn.Sequential(*encoder, nn.ReLU(), nn.Conv3d(channels, latent_dim, 1))
        self.quantizer: Any = make_quantizer(latent_dim, **quantizer)
        decoder: list[nn.Module] = [nn.Conv3d(latent_dim, widths[-1], 3, padding=1)]
        decoder += [ResidualBlock(widths[-1], residual, nn.Conv3d) for _ in range(n_residual)]
        for i, kernel in reversed(list(enumerate(kernels))):
            halved = (kernel[0] // 2, 2, 2)
            decoder += [nn.ReLU(), nn.ConvTranspose3d(widths[i + 1], widths[i], kernel, halved, 1)]
        self.decoder = nn.Sequential(*decoder)
        self.likelihood = Gaussian()
        #: (codebooks, codebook size, stride in pixels) of the one level, as in `audiovq.image.ImageCodec`.
        sizes: Any = self.quantizer
        self.levels: list[tuple[int, int, int]] = [(sizes.n_codebooks, sizes.codebook_size, stride)]
        #: See `audiovq.hub.codes_hash`; stored in files. Zero for a model that was not loaded.
        self.model_hash = b"\0\0\0\0"
        #: Folder that it was loaded from.
        self.folder: Path | None = None

    def forward(self, clips: Tensor) -> tuple[Tensor, Quantized]:
        """Clips (B, 3, T, H, W) in [0, 1], sizes multiples of the strides -> mean pixels in [-1, 1], and latents."""
        quantized = self.quantizer(self.encoder(2 * clips - 1))
        return self.decoder(quantized.latents), quantized

    def grid(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Height and width of the codes for frames of this size in pixels."""
        return [(-(-size[0] // self.stride), -(-size[1] // self.stride))]

    @full_precision
    def encode(self, clips: Tensor) -> EncodedClip:
        """Encode clips (B, 3, T, H, W) of any size, float in [0, 1] or uint8.

        Edges and the last frame are repeated up to the strides.

        Raises:
            AudioVQError: for another shape or type, values outside of [0, 1] or not finite, and weights that are not
                float32.
        """
        check_float32(self)
        clips = check_pixels(clips, self.image_channels, "video clips (B, {}, T, H, W)", self.name)
        frames, height, width = clips.shape[2:]
        ends = (0, -width % self.stride, 0, -height % self.stride, 0, -frames % self.time_stride)
        padded = F.pad(clips, ends, mode="replicate")
        # One by one: codes must not depend on the rest of the batch.
        codes = [self.quantizer.encode(self.encoder(2 * padded[i : i + 1] - 1)) for i in range(len(padded))]
        return EncodedClip(torch.cat(codes), (frames, height, width))

    @full_precision
    def decode(self, encoded: EncodedClip) -> Tensor:
        """Decode to clips (B, 3, T, H, W) in [0, 1] of their original size.

        Raises:
            AudioVQError: for codes that do not fit the size, and weights that are not float32.
        """
        check_float32(self)
        frames, height, width = encoded.size
        expected = (self.levels[0][0], -(-frames // self.time_stride), *self.grid((height, width))[0])
        if tuple(encoded.codes.shape[1:]) != expected:
            raise AudioVQError(f"model {self.name} needs codes of shape {expected} for clips of {encoded.size}")
        parts = [self.decoder(self.quantizer.decode(encoded.codes[i : i + 1])) for i in range(len(encoded.codes))]
        return (0.5 * torch.cat(parts) + 0.5).clamp(0, 1)[:, :, :frames, :height, :width]

    def encode_frames(self, frames: np.ndarray) -> tuple[np.ndarray, ...]:
        """Frames (T, H, W, 3) uint8 -> codes of the one level, (K, t, h, w) int64."""
        return (self.encode(from_bytes(frames).transpose(0, 1)[None]).codes[0].numpy(),)

    def decode_frames(self, codes: Sequence[np.ndarray], size: tuple[int, int], n_frames: int) -> np.ndarray:
        """Codes of the one level, (K, t, h, w) -> frames (T, H, W, 3) uint8."""
        clip = self.decode(EncodedClip(torch.from_numpy(codes[0])[None], (n_frames, *size)))
        return to_bytes(clip[0].transpose(0, 1))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ClipCodec:
        """Load a folder with config and weights.

        Raises:
            AudioVQError: when there is no such model, or its files are damaged.
        """
        return load_codec(cls, folder)


def is_clip_codec(folder: str | Path) -> bool:
    """Whether a folder holds a codec for video clips rather than one for images."""
    try:
        return "time_stride" in read_config(folder)
    except AudioVQError:
        return False
