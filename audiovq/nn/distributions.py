"""Output distributions over a grid of levels, with likelihoods and samples.

Parameters are in dimension 1, ``(B, n_parameters, *dims)``; targets and samples are ``(B, *dims)`` in [-1, 1]. Noise is
an argument, uniform in (0, 1), so that samples are reproducible, also by a sampler in another language.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def compand(x: Tensor, mu: float = 255.0) -> Tensor:
    """mu-law: [-1, 1] -> [-1, 1], with most of the range for small values (ITU-T G.711 as a continuous curve)."""
    return x.sign() * torch.log1p(mu * x.abs()) / math.log1p(mu)


def expand(y: Tensor, mu: float = 255.0) -> Tensor:
    """The inverse of `compand`."""
    return y.sign() * torch.expm1(y.abs() * math.log1p(mu)) / mu


class MuLawCategorical:
    """Categorical distribution over ``2 ** bits`` mu-law levels (van den Oord et al. 2016, section 2.2)."""

    #: Uniform numbers needed for one sample.
    n_uniform = 1

    def __init__(self, bits: int = 8) -> None:
        self.n_levels = self.n_parameters = 2**bits
        self.mu = float(self.n_levels - 1)

    def level(self, target: Tensor) -> Tensor:
        """Values in [-1, 1] -> index of the nearest level, int64."""
        companded = compand(target.float().clamp(-1, 1), self.mu)
        return torch.round((companded + 1) * (0.5 * (self.n_levels - 1))).long()

    def value(self, level: Tensor) -> Tensor:
        """Index of a level -> its value in [-1, 1]."""
        return expand(level.float() * (2 / (self.n_levels - 1)) - 1, self.mu)

    def on_grid(self, values: Tensor) -> Tensor:
        """Any values -> the values of the nearest levels."""
        return self.value(self.level(values))

    def nll(self, parameters: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood in nats: (B, n_parameters, *dims), (B, *dims) -> (B, *dims)."""
        with torch.autocast(parameters.device.type, enabled=False):
            return F.cross_entropy(parameters.float(), self.level(target), reduction="none")

    def sample(self, parameters: Tensor, uniform: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """Logits (B, n_parameters, *dims) and noise (B, 1, *dims) -> values (B, *dims), by inverse transform."""
        probabilities = torch.softmax(parameters.float() / temperature, dim=1)
        return self.value(sample_categorical(probabilities, uniform[:, 0]))


class LogisticMixture:
    """A mixture of logistic distributions, each integrated over the bins of a grid (Salimans et al. 2017, section 2.1).

    Parameters are ``n_mixtures`` logits, as many locations, as many logarithms of scales, in this order. The outermost
    bins reach to infinity, so that the probabilities of all levels add up to one.

    A bin of width w around x has the mass ``sigmoid(p) - sigmoid(m)`` for ``p, m = (x - location +- w / 2) / scale``.
    Written as ``sigmoid(p) * sigmoid(-m) * (1 - exp(m - p))`` its logarithm is exact in float32 however far out or
    narrow the bin is, without a threshold or an approximation by the density.

    Args:
        n_mixtures: number of components.
        bits: the grid has ``2 ** bits`` levels from -1 to 1.
        min_log_scale: lower bound of the logarithms of scales; the default is an eighth of a bin.
    """

    #: Uniform numbers needed for one sample: for the component, and for the value.
    n_uniform = 2

    def __init__(self, n_mixtures: int = 4, bits: int = 16, min_log_scale: float | None = None) -> None:
        self.n_mixtures, self.n_levels, self.n_parameters = n_mixtures, 2**bits, 3 * n_mixtures
        self.bin = 2 / (self.n_levels - 1)
        self.min_log_scale = math.log(self.bin / 8) if min_log_scale is None else min_log_scale

    def on_grid(self, values: Tensor) -> Tensor:
        """Any values -> the nearest levels, within [-1, 1]."""
        return torch.round((values.clamp(-1, 1) + 1) / self.bin) * self.bin - 1

    def nll(
        self, parameters: Tensor, target: Tensor, shift: Tensor | None = None, unit: Tensor | None = None
    ) -> Tensor:
        """Negative log-likelihood in nats: (B, n_parameters, *dims), (B, *dims) -> (B, *dims).

        Prior knowledge of the value: ``unit`` (B, *dims) > 0 multiplies locations and scales, then ``shift`` (B, *dims)
        is added to all locations. Targets are rounded to the grid.
        """
        with torch.autocast(parameters.device.type, enabled=False):
            logits, locations, log_scales = self._split(parameters, unit)
            x = self.on_grid(target.float())
            centred = (x if shift is None else x - shift.float()).unsqueeze(1) - locations
            inverse = torch.exp(-log_scales)
            plus, minus = (centred + self.bin / 2) * inverse, (centred - self.bin / 2) * inverse
            upper, lower = F.logsigmoid(plus), F.logsigmoid(-minus)
            inside = upper + lower + torch.log(-torch.expm1(-self.bin * inverse))
            edge = (x.unsqueeze(1) < self.bin / 2 - 1, x.unsqueeze(1) > 1 - self.bin / 2)
            log_mass = torch.where(edge[0], upper, torch.where(edge[1], lower, inside))
            return -torch.logsumexp(F.log_softmax(logits, dim=1) + log_mass, dim=1)

    def sample(
        self,
        parameters: Tensor,
        uniform: Tensor,
        shift: Tensor | None = None,
        unit: Tensor | None = None,
        temperature: float | Tensor = 1.0,
    ) -> Tensor:
        """Parameters (B, n_parameters, *dims) and noise (B, 2, *dims) -> values on the grid (B, *dims).

        ``shift`` and ``unit`` are those of `nll`; ``temperature`` multiplies the scales.
        """
        logits, locations, log_scales = self._split(parameters, unit)
        component = sample_categorical(torch.softmax(logits, dim=1), uniform[:, 0]).unsqueeze(1)
        location, log_scale = locations.gather(1, component)[:, 0], log_scales.gather(1, component)[:, 0]
        noise = torch.log(uniform[:, 1]) - torch.log1p(-uniform[:, 1])
        value = location + temperature * torch.exp(log_scale) * noise
        return self.on_grid(value if shift is None else value + shift)

    def _split(self, parameters: Tensor, unit: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, locations and logarithms of scales, in units of the values."""
        logits, locations, log_scales = parameters.float().chunk(3, dim=1)
        if unit is not None:
            unit = unit.float().unsqueeze(1)
            locations, log_scales = locations * unit, log_scales + torch.log(unit)
        return logits, locations, log_scales.clamp_min(self.min_log_scale)


def sample_categorical(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Sample indices (B, *dims) from probabilities (B, n, *dims) with uniform noise (B, *dims).

    The sample is the first index whose cumulative probability exceeds the noise.
    """
    cumulative = probabilities.cumsum(dim=1)
    last = probabilities.shape[1] - 1
    return (cumulative <= uniform.unsqueeze(1)).sum(dim=1).clamp_max(last)
