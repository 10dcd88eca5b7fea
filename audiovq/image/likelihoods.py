"""Likelihoods of pixels given a decoder's output, and the variational bound on bits per dimension.

Images are (B, C, H, W) in [-1, 1], parameters (B, ``n_parameters`` * C, H, W).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from audiovq.nn.distributions import LogisticMixture

_BIN = 2 / 255
"""Distance between two of the 256 levels."""


class Gaussian(nn.Module):
    """Squared error: one standard deviation for all pixels, learned, so that other loss terms need no weights.

    As with the logistic, the likelihood is the probability mass of each of the 256 levels, so that the nats are those
    of a lossless code.
    """

    n_parameters = 1

    def __init__(self) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.tensor(-1.0))

    def nll(self, parameters: Tensor, images: Tensor) -> Tensor:
        """Nats of each value (B, C, H, W): from the density in training, from the mass of its level in evaluation."""
        if self.training:
            inverse = torch.exp(-2 * self.log_sigma)
            density = 0.5 * (images - parameters).square() * inverse + self.log_sigma + 0.5 * math.log(2 * math.pi)
            return density - math.log(_BIN)
        sigma = self.log_sigma.double().exp()
        error = (images.double() - parameters.double()).abs()  # the nearer tail loses no digits
        inner, outer = (error - _BIN / 2) / sigma, (error + _BIN / 2) / sigma
        upper = torch.special.log_ndtr(-inner)  # of all beyond the nearer edge
        inside = upper + torch.log1p(-torch.exp(torch.special.log_ndtr(-outer) - upper))
        outward = images.sign() * (images - parameters) >= 0
        beyond = torch.where(outward, upper, torch.special.log_ndtr(outer))
        return -torch.where(images.abs() > 1 - _BIN / 2, beyond, inside).float()

    def mean(self, parameters: Tensor) -> Tensor:
        """The means (B, C, H, W)."""
        return parameters


class DiscretizedLogistic(nn.Module):
    """A logistic for each channel of each pixel, integrated over the 256 levels (Kingma et al. 2016, appendix E).

    The decoder gives a location and the logarithm of a scale. The probabilities of the levels add up to one, so the
    nats are those of a lossless code.
    """

    n_parameters = 2

    def __init__(self) -> None:
        super().__init__()
        self.levels = LogisticMixture(1, bits=8)
        self.log_scale = nn.Parameter(torch.tensor(-2.0))

    def nll(self, parameters: Tensor, images: Tensor) -> Tensor:
        """Nats of each value (B, C, H, W)."""
        location, log_scale = parameters.unflatten(1, (self.n_parameters, -1)).unbind(1)
        log_scale = (log_scale + self.log_scale).clamp(-7.0, 2.0)
        return self.levels.nll(torch.stack([torch.zeros_like(location), location, log_scale], 1), images)

    def mean(self, parameters: Tensor) -> Tensor:
        """The locations (B, C, H, W)."""
        return parameters.unflatten(1, (self.n_parameters, -1))[:, 0]


LIKELIHOODS: dict[str, type[Gaussian] | type[DiscretizedLogistic]] = {
    "gaussian": Gaussian,
    "logistic": DiscretizedLogistic,
}


@dataclass
class Bound:
    """The two parts of ``-log p(x) <= E_q[-log p(x | z)] + KL(q(z | x) || p(z))`` (negative ELBO) for each image.

    Attributes:
        pixels: (B,) nats, the first part.
        latents: (B,) nats, the second. A quantizer's posterior is deterministic and its prior uniform: log K per code.
        loss: scalar that training adds (the quantizers' losses).
        image: (B, C, H, W) in [0, 1], the mean of the decoder's distribution.
        metrics: scalars to log.
    """

    pixels: Tensor
    latents: Tensor
    loss: Tensor
    image: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def bits_per_dim(self) -> Tensor:
        """(B,), both parts in bits per value of an image."""
        return (self.pixels + self.latents) / (self.image[0].numel() * math.log(2))
