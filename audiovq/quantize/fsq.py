"""Finite scalar quantization (FSQ): a fixed grid instead of a learned codebook."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from audiovq.quantize.codebook import Usage, all_reduce_sum
from audiovq.quantize.functional import (
    Quantized,
    QuantizerError,
    check_codes,
    check_latents,
    check_n_codebooks,
    count_codes,
    flatten_dims,
    straight_through,
)
from audiovq.quantize.vector import Projection


class FiniteScalarQuantizer(nn.Module):
    """Rounds each of a few bounded channels to a fixed number of levels (Mentzer et al. 2023, section 3).

    The codebook of ``prod(levels)`` codes is implicit: it is not learned, cannot collapse, and has no loss (0).
    When ``channels`` differs from ``len(levels)`` a 1x1 map leads in and another one out.

    Args:
        levels: levels of each dimension, at least 2. (8, 5, 5, 5) gives 1000 codes; more are in section 4.1.
        channels: ``C`` of the latents. None: one for each dimension.

    Raises:
        QuantizerError: settings, latents or codes that do not fit.
    """

    n_codebooks = 1
    reach: Tensor
    offset: Tensor
    shift: Tensor
    width: Tensor
    place: Tensor
    count: Tensor

    def __init__(self, levels: Sequence[int] = (8, 5, 5, 5), channels: int | None = None) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise QuantizerError(f"levels must be at least 2 in each dimension, not {list(levels)}")
        self.channels, self.levels = channels or len(levels), tuple(levels)
        self.codebook_size = math.prod(levels)
        self.projection = None if self.channels == len(levels) else Projection(self.channels, len(levels))
        self.usage = Usage(self.codebook_size)
        count = torch.tensor(levels)
        reach = (count - 1) * (1 + 1e-3) / 2  # slightly beyond the outer levels, so that tanh can reach them
        offset = torch.where(count % 2 == 0, 0.5, 0.0)
        for name, value in {
            "reach": reach,
            "offset": offset,
            "shift": torch.atanh(offset / reach),
            "width": (count // 2).float(),
            "count": count,
            "place": torch.cat([torch.ones(1, dtype=torch.int64), count.cumprod(0)[:-1]]),
        }.items():
            self.register_buffer(name, value[:, None], persistent=False)

    def forward(self, latents: Tensor, n_codebooks: int | None = None) -> Quantized:
        """Quantize ``latents (B, C, *dims)``; codes ``(B, 1, *dims)``."""
        check_latents(latents, self.channels)
        check_n_codebooks(n_codebooks, self.n_codebooks)
        with torch.autocast(latents.device.type, enabled=False):
            bounded = self.bound(flatten_dims(latents))
            codes = self._codes(bounded)
            value = self._expand(straight_through(bounded / self.width, self._points(codes)))
            counts = count_codes(codes, self.codebook_size).float()
            if self.training:
                all_reduce_sum(counts)
                self.usage.observe(counts)
            metrics = self.usage.metrics(counts)
        shape = latents.shape
        return Quantized(value.view(shape), codes.view(shape[0], 1, *shape[2:]), value.new_zeros(()), metrics)

    @torch.no_grad()
    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Codes ``(B, 1, *dims)`` of ``latents (B, C, *dims)``."""
        check_latents(latents, self.channels)
        check_n_codebooks(n_codebooks, self.n_codebooks)
        with torch.autocast(latents.device.type, enabled=False):
            codes = self._codes(self.bound(flatten_dims(latents)))
        return codes.view(latents.shape[0], 1, *latents.shape[2:])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Latents ``(B, C, *dims)`` of ``codes (B, 1, *dims)``."""
        check_codes(codes, self.codebook_size, self.n_codebooks)
        with torch.autocast(codes.device.type, enabled=False):
            value = self._expand(self._points(codes[:, :1].flatten(1)))
        return value.view(codes.shape[0], self.channels, *codes.shape[2:])

    def bound(self, x: Tensor) -> Tensor:
        """``(B, C, T)`` to the range of the levels, ``(B, D, T)``, not yet rounded; 0 is code ``levels // 2``."""
        z = x if self.projection is None else self.projection.reduce(x)
        return torch.tanh(z + self.shift) * self.reach - self.offset

    def _codes(self, bounded: Tensor) -> Tensor:
        digits = bounded.detach().round().long() + self.width.long()  # 0 to levels - 1
        return (digits * self.place).sum(1)

    def _points(self, codes: Tensor) -> Tensor:
        """Codes ``(B, T)`` to their points in [-1, 1], ``(B, D, T)``."""
        digits = codes[:, None] // self.place % self.count
        points = (digits - self.width) / self.width
        return points.masked_fill((codes < 0)[:, None], 0)

    def _expand(self, points: Tensor) -> Tensor:
        """``(B, D, T)`` to ``(B, C, T)``; sums in a fixed order, so that rounding does not depend on the batch."""
        if self.projection is None:
            return points
        outward = self.projection.outward
        value = outward.bias[:, None].expand(len(points), -1, points.shape[2])
        for weight, point in zip(outward.weight.unbind(1), points.unbind(1), strict=True):
            value = value + weight[:, None] * point[:, None]
        return value
