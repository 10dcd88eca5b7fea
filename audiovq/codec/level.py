"""Level and offset: what is taken off a recording before it is coded, and put back (the level) after decoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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


class HighPass:
    """Second-order Butterworth high-pass at 20 Hz for one channel in pieces.

    It starts settled on the first sample: a constant offset changes nothing, from the first sample on.
    """

    def __init__(self, sample_rate: int) -> None:
        from scipy.signal import butter, sosfilt_zi

        self._sections = butter(2, _CUTOFF_HZ, "highpass", fs=sample_rate, output="sos")
        self._settled = sosfilt_zi(self._sections)
        self._state: np.ndarray | None = None

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """(n,) float -> (n,) float32."""
        from scipy.signal import sosfilt

        samples = np.asarray(samples, np.float64)
        if not len(samples):
            return samples.astype(np.float32)
        if self._state is None:
            self._state = self._settled * samples[0]
        filtered, self._state = sosfilt(self._sections, samples, zi=self._state)
        return filtered.astype(np.float32)


def frame_levels(waveform: Tensor, hop_length: int) -> Tensor:
    """Level in dB of full scale of each frame with its two neighbours: (B, T) -> (B, T // hop_length)."""
    power = waveform.float().unfold(-1, hop_length, hop_length).square().mean(-1)
    mean = F.avg_pool1d(power[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    return 10 * torch.log10(mean + 1e-12)


def quantize_level(level_db: float) -> int:
    """dB -> level code."""
    return int(np.clip(round((level_db + 100.0) / STEP_DB), 0, N_LEVELS - 1))


def dequantize_level(codes: Any) -> Any:
    """Level codes, a number or an array or tensor of them -> dB."""
    return codes * STEP_DB - 100.0
