"""Level and offset: what is taken off a recording before it is coded, and put back (the level) after decoding."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.processor import compiled

if TYPE_CHECKING:
    from torch import Tensor

TARGET_DB = -14.0
"""Level, dB of full scale, that the loudest frame of a packet is brought to before it is coded."""
LOWEST_DB = -90.0
"""Quieter packets are not raised any further."""
STEP_DB = 0.5
"""Step of the level codes."""
N_LEVELS = 256
"""Level codes: -100 to 27.5 dB."""
FALL_DB = 5.0
"""dB by which the level may fall in a second, so that pauses stay quieter than the speech around them."""
_CUTOFF_HZ = 20.0


class HighPass:
    """Second-order Butterworth high-pass at 20 Hz for one channel in pieces.

    It starts settled on the first sample: a constant offset changes nothing, from the first sample on.
    """

    def __init__(self, sample_rate: int) -> None:
        # The bilinear transform of s^2 / (s^2 + sqrt(2) s + 1), at its cut-off.
        k = math.tan(math.pi * _CUTOFF_HZ / sample_rate)
        self._gain = 1 / (1 + math.sqrt(2) * k + k * k)
        self._feedback = 2 * (k * k - 1) * self._gain, (1 - math.sqrt(2) * k + k * k) * self._gain
        self._state: np.ndarray | None = None

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """(n,) float -> (n,) float32."""
        samples = np.asarray(samples, np.float64)
        if len(samples) and self._state is None:
            self._state = np.array([-self._gain, self._gain]) * samples[0]
        filtered = np.empty(len(samples), np.float32)
        if len(samples):
            _filter(samples, self._gain, *self._feedback, self._state, filtered)
        return filtered


@partial(compiled, (__file__,))
def _filter(samples: Any, gain: Any, a1: Any, a2: Any, state: Any, filtered: Any) -> None:
    """Direct form II, transposed, with the numerator ``gain * (1, -2, 1)``."""
    first, second = state[0], state[1]
    for i in range(len(samples)):
        x = samples[i]
        y = gain * x + first
        first = second - 2 * gain * x - a1 * y
        second = gain * x - a2 * y
        filtered[i] = y
    state[0], state[1] = first, second


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
