"""Differences of loudness as a listener hears them: the disturbance of ITU-T P.862 (PESQ) as a loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def bark(hz: Tensor) -> Tensor:
    """Hz -> Bark (Traunmüller 1990)."""
    return 26.81 * hz / (1960 + hz) - 0.53


def threshold_db(hz: Tensor) -> Tensor:
    """Hearing threshold in dB SPL (Terhardt 1979)."""
    khz = hz / 1000
    return 3.64 * khz**-0.8 - 6.5 * torch.exp(-0.6 * (khz - 3.3).square()) + 1e-3 * khz**4


class Disturbance(nn.Module):
    """Symmetric and asymmetric disturbance of loudness densities, per frame, as in P.862 (Rix et al. 2001).

    What differs from the standard, for the sake of gradients: no time alignment, no equalisation, one scale for both
    signals, and means over frames instead of norms that the worst frames dominate (as in Martín-Doñas et al. 2018,
    PMSQE).

    Args:
        n_fft: window length of the squared magnitudes, in samples.
        bands: along the Bark scale.
        level_db: SPL at which the target is heard.
        sample_rate: Hz.
    """

    filters: Tensor
    threshold: Tensor
    exponent: Tensor
    width: Tensor

    def __init__(self, n_fft: int = 512, bands: int = 49, level_db: float = 79.0, sample_rate: int = 16000) -> None:
        super().__init__()
        hz = torch.arange(n_fft // 2 + 1) * sample_rate / n_fft
        place = bark(hz.clamp_min(20.0))
        edges = torch.linspace(float(bark(torch.tensor(45.0))), float(bark(torch.tensor(sample_rate / 2))), bands + 2)
        rising = (place - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
        falling = (edges[2:, None] - place) / (edges[2:] - edges[1:-1])[:, None]
        filters = torch.minimum(rising, falling).clamp_min(0.0)
        # Bands that are narrower than the spacing of the bins share the nearest ones.
        centre = (edges[1:-1, None] - place).abs().argmin(1)
        empty = filters.sum(1) < 0.5
        filters[empty] = torch.nn.functional.one_hot(centre[empty], len(hz)).float()
        self.register_buffer("filters", filters, persistent=False)
        middle = 1960 * (edges[1:-1] + 0.53) / (26.28 - edges[1:-1])
        # A bin's power of 1 is a sine of 0 dB; thresholds refer to a band.
        self.register_buffer("threshold", 10 ** (threshold_db(middle.clamp(50, 8000)) / 10), persistent=False)
        steep = (6 / (edges[1:-1] + 2)).clamp(1.0, 2.0) ** 0.15
        self.register_buffer("exponent", 0.23 * steep, persistent=False)
        self.register_buffer("width", torch.full((bands,), 24.0 / bands), persistent=False)
        self.level = 10 ** (level_db / 10)
        self.speech = (int(300 * n_fft / sample_rate), int(3500 * n_fft / sample_rate))

    def powers(self, squared: Tensor, scale: Tensor) -> Tensor:
        """Squared magnitudes (B, bins, frames) -> powers of bands (B, bands, frames); 1 is 0 dB SPL."""
        return torch.matmul(self.filters, squared * scale)

    def loudness(self, power: Tensor) -> Tensor:
        """Powers of bands -> loudness densities in sone per Bark (Zwicker)."""
        threshold, exponent = self.threshold[:, None], self.exponent[:, None]
        size = (threshold / 0.5) ** exponent
        return 0.187 * size * ((0.5 + 0.5 * power / threshold) ** exponent - 0.5**exponent)

    def forward(self, decoded: Tensor, target: Tensor) -> Tensor:
        """Squared magnitudes (B, bins, frames) -> about the points that the disturbance costs; scalar."""
        with torch.no_grad():
            low, high = self.speech
            speech = target[:, low:high].sum(1)
            active = speech > 1e-3 * speech.amax(1, keepdim=True)
            mean = (speech * active).sum(1) / active.sum(1).clamp_min(1)
            scale = (self.level / mean.clamp_min(1e-7))[:, None, None]
            reference = self.powers(target, scale)
            wanted = self.loudness(reference)
            loud = (0.04 * torch.log((target * scale).sum(1).clamp_min(1.0) / 1e7)).exp()
        power = self.powers(decoded, scale)
        heard = self.loudness(power)
        difference = heard - wanted
        masked = 0.25 * torch.minimum(heard, wanted).detach()
        difference = torch.sign(difference) * (difference.abs() - masked).clamp_min(0.0)
        width = self.width[:, None]
        symmetric = torch.sqrt((difference.square() * width).sum(1) * width.sum() + 1e-6)
        with torch.no_grad():
            asymmetry = ((power + 50) / (reference + 50)) ** 1.2
            asymmetry = torch.where(asymmetry < 3, 0.0, asymmetry.clamp_max(12.0))
        asymmetric = (difference.abs() * asymmetry * width).sum(1)
        worth = 0.1 * symmetric.clamp_max(45.0) + 0.0309 * asymmetric.clamp_max(45.0)
        return (worth / loud).mean()
