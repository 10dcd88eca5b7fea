"""Level and offset: what is taken off a recording before it is coded, and put back (the level) after decoding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

TARGET_DB = -14.0
"""Level, dB of full scale, that the loudest frame of a packet is brought to before it is coded."""
LOWEST_DB = -90.0
"""Quieter packets are not raised any further."""
STEP_DB = 0.5
"""Step of the level codes."""
N_LEVELS = 255
"""Level codes: -100 to 27 dB."""
FALL_DB = 5.0
"""dB by which the level may fall in a second, so that pauses stay quieter than the speech around them."""
_CUTOFF_HZ = 20.0
_BLOCK = 64


class HighPass:
    """Second-order Butterworth high-pass at 20 Hz for one channel in pieces.

    It starts settled on the first sample: a constant offset changes nothing, from the first sample on. The recursion of
    its complex pole is summed by doubling within blocks whose places do not depend on the pieces.
    """

    def __init__(self, sample_rate: int) -> None:
        # The bilinear transform of s^2 / (s^2 + sqrt(2) s + 1), at its cut-off: gain * (1 - 1/z)^2 over both poles.
        k = math.tan(math.pi * _CUTOFF_HZ / sample_rate)
        self._gain = 1 / (1 + math.sqrt(2) * k + k * k)
        real, square = (1 - k * k) * self._gain, (1 - math.sqrt(2) * k + k * k) * self._gain
        self._pole = complex(real, math.sqrt(square - real * real))
        self._recent: np.ndarray | None = None  # two samples before the block, and what there is of it
        self._sum = 0j  # of the recursion at the block's beginning

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """(n,) float -> (n,) float32."""
        samples = np.asarray(samples, np.float64)
        if not len(samples):
            return samples.astype(np.float32)
        recent = np.full(2, samples[0]) if self._recent is None else self._recent
        known = len(recent) - 2
        x = np.concatenate([recent, samples])
        curve = x[2:] - 2 * x[1:-1] + x[:-2]
        n_whole = len(curve) // _BLOCK
        blocks = np.zeros((n_whole + 1, _BLOCK))
        blocks.reshape(-1)[: len(curve)] = curve
        sums, self._sum = self._recursion(blocks, n_whole)
        self._recent = x[n_whole * _BLOCK :]
        # Both poles together: twice the real part of sum * pole / (pole - conjugate).
        weight = 2 * self._gain * self._pole / complex(0, 2 * self._pole.imag)
        filtered = sums[0] * weight.real - sums[1] * weight.imag
        return filtered.reshape(-1)[known : len(curve)].astype(np.float32)

    def _recursion(self, blocks: np.ndarray, n_whole: int) -> tuple[list[np.ndarray], complex]:
        """Real and imaginary parts of s[t] = x[t] + pole * s[t - 1], and s at the end of the whole blocks."""
        real, imaginary = blocks, np.zeros_like(blocks)
        step, power = 1, self._pole
        while step < _BLOCK:
            a, b = real[:, :-step], imaginary[:, :-step]
            more = a * power.real - b * power.imag, a * power.imag + b * power.real
            real, imaginary = real.copy(), imaginary.copy()
            real[:, step:] += more[0]
            imaginary[:, step:] += more[1]
            step, power = 2 * step, power * power
        before, last = np.empty(len(blocks), complex), self._sum
        for i, (a, b) in enumerate(zip(real[:, -1].tolist(), imaginary[:, -1].tolist(), strict=True)):
            before[i] = last
            last = complex(a, b) + power * last
        carried = self._pole ** np.arange(1, _BLOCK + 1)
        a, b = before.real[:, None], before.imag[:, None]
        real = real + (a * carried.real - b * carried.imag)
        imaginary = imaginary + (a * carried.imag + b * carried.real)
        return [real, imaginary], complex(before[n_whole])


def loudest_frame(samples: np.ndarray, hop_length: int) -> float:
    """Level in dB of full scale of the loudest frame, with its two neighbours, of (T,) samples, a hop or more."""
    frames = samples[: len(samples) // hop_length * hop_length].reshape(-1, hop_length)
    power = np.pad(np.square(frames, dtype=np.float32).mean(axis=1), 1)
    count = np.full(len(frames), 3)
    count[0] -= 1
    count[-1] -= 1
    mean = (power[:-2] + power[1:-1] + power[2:]) / count
    return 10 * math.log10(float(mean.max()) + 1e-12)


def frame_levels(waveform: Tensor, hop_length: int) -> Tensor:
    """Level in dB of full scale of each frame with its two neighbours: (B, T) -> (B, T // hop_length)."""
    import torch
    from torch.nn.functional import avg_pool1d

    power = waveform.float().unfold(-1, hop_length, hop_length).square().mean(-1)
    mean = avg_pool1d(power[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    return 10 * torch.log10(mean + 1e-12)


def quantize_level(level_db: float) -> int:
    """dB -> level code."""
    return int(np.clip(round((level_db + 100.0) / STEP_DB), 0, N_LEVELS - 1))


def dequantize_level(codes: Any) -> Any:
    """Level codes, a number or an array or tensor of them -> dB."""
    return codes * STEP_DB - 100.0
