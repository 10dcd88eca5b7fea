"""A waveform as a few sub-bands at a lower rate, and back: pseudo quadrature mirror filters."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PQMF(nn.Module):
    """Cosine-modulated filter bank, ``n_bands`` bands each at ``1 / n_bands`` of the rate (Nguyen 1994).

    The prototype is a Kaiser-windowed low-pass whose cut-off makes the bank as nearly perfect as its length allows
    (Lin and Vaidyanathan 1998). A sinusoid keeps its amplitude in its band. Bands are aligned with the waveform: value
    t of a band stands for the samples around ``t * n_bands``.

    Args:
        n_bands: 1 leaves the waveform as it is.
        order: of the prototype, a multiple of ``2 * n_bands``; more is nearer to perfect, and reaches further.
        beta: of the Kaiser window.
    """

    analysis_filters: Tensor
    synthesis_filters: Tensor

    def __init__(self, n_bands: int = 4, order: int | None = None, beta: float = 9.0) -> None:
        super().__init__()
        self.n_bands = n_bands
        self.order = 16 * n_bands if order is None else order
        if self.order % (2 * n_bands):
            raise ValueError(f"the order {self.order} must be a multiple of {2 * n_bands}")
        #: Steps on either side that a sample of the waveform depends on.
        self.context_steps = self.order // 2 // n_bands if n_bands > 1 else 0
        prototype = _prototype(n_bands, self.order, beta)
        n, k = np.arange(self.order + 1) - self.order / 2, np.arange(n_bands)[:, None]
        phase = (2 * k + 1) * np.pi / (2 * n_bands) * n
        turn = (-1.0) ** k * np.pi / 4
        analysis = 2 * prototype * np.cos(phase + turn)
        synthesis = 2 * n_bands * prototype * np.cos(phase - turn)
        self.register_buffer("analysis_filters", torch.from_numpy(analysis[:, None, ::-1].copy()).float(), False)
        self.register_buffer("synthesis_filters", torch.from_numpy(synthesis[:, None]).float(), False)

    def analysis(self, waveform: Tensor) -> Tensor:
        """(B, 1, T), T a multiple of ``n_bands`` -> (B, n_bands, T / n_bands)."""
        if self.n_bands == 1:
            return waveform
        with torch.autocast(waveform.device.type, enabled=False):
            padded = F.pad(waveform.float(), (self.order // 2, self.order // 2 - self.n_bands + 1))
            return F.conv1d(padded, self.analysis_filters, stride=self.n_bands)

    def synthesis(self, bands: Tensor) -> Tensor:
        """(B, n_bands, T) -> (B, 1, T * n_bands)."""
        if self.n_bands == 1:
            return bands
        with torch.autocast(bands.device.type, enabled=False):
            full = F.conv_transpose1d(bands.float(), self.synthesis_filters, stride=self.n_bands)
            return full[..., self.order // 2 : self.order // 2 + bands.shape[-1] * self.n_bands]


def _prototype(n_bands: int, order: int, beta: float) -> np.ndarray:
    """Low-pass (order + 1,) whose autocorrelation is nearest to zero at all other multiples of ``2 * n_bands``."""
    n = np.arange(order + 1) - order / 2
    window = np.kaiser(order + 1, beta)

    def low_pass(cutoff: float) -> np.ndarray:
        return cutoff * np.sinc(cutoff * n) * window

    def error(cutoff: float) -> float:
        taps = low_pass(cutoff)
        spread = np.correlate(taps, taps, "full")[order :: 2 * n_bands]
        return float(np.abs(spread[1:]).max() / spread[0])

    # The error has one minimum a little above half a band; golden-section search.
    low, high, ratio = 0.5 / n_bands, 1.0 / n_bands, (5**0.5 - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if error(a) < error(b) else (a, high)
    taps = low_pass((low + high) / 2)
    # Power-complementary: the bands' energies add up to the signal's.
    return taps / np.sqrt(2 * n_bands * np.square(taps).sum())
