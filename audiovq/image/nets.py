"""Strided convolutional networks between images and latents, likelihoods of pixels, and baselines with other latents.

Networks are those of van den Oord et al. 2017, section 4.1. Images are (B, C, H, W) in [-1, 1], parameters of
likelihoods (B, ``n_parameters`` * C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.devices import arguments
from audiovq.errors import AudioVQError
from audiovq.nn import Stored
from audiovq.nn.distributions import LogisticMixture
from audiovq.quantize import ProductQuantizer, ResidualVectorQuantizer

QUANTIZERS: dict[str, Any] = {"residual": ResidualVectorQuantizer, "product": ProductQuantizer}


class ResidualBlock(nn.Module):
    """ReLU, 3x3 convolution, ReLU, 1x1 convolution, added to the input (B, C, H, W), or with ``conv`` to a video."""

    def __init__(self, channels: int, hidden: int, conv: type[nn.Conv2d] | type[nn.Conv3d] = nn.Conv2d) -> None:
        super().__init__()
        self.narrow = conv(channels, hidden, 3, padding=1)
        self.widen = conv(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.widen(F.relu(self.narrow(F.relu(x))))


class Encoder(nn.Sequential):
    """4x4 convolutions of stride 2 up to a total stride of ``factor``, then residual blocks.

    (B, in_channels, H, W) -> (B, channels, H / factor, W / factor), rectified.
    """

    def __init__(self, in_channels: int, channels: int, factor: int, residual: int, n_residual: int) -> None:
        layers: list[nn.Module] = []
        for remaining in halvings(factor):
            out = channels if remaining == 1 else max(channels // remaining, in_channels)
            layers += [nn.Conv2d(in_channels, out, 4, stride=2, padding=1), nn.ReLU()]
            in_channels = out
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1)]
        layers += [ResidualBlock(channels, residual) for _ in range(n_residual)]
        super().__init__(*layers, nn.ReLU())


class Decoder(nn.Sequential):
    """Residual blocks, then 4x4 transposed convolutions of stride 2 up to a total stride of ``factor``.

    (B, in_channels, h, w) -> (B, out_channels, h * factor, w * factor).
    """

    def __init__(
        self, in_channels: int, channels: int, out_channels: int, factor: int, residual: int, n_residual: int
    ) -> None:
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, padding=1)]
        layers += [ResidualBlock(channels, residual) for _ in range(n_residual)]
        inside = channels
        for done in reversed(halvings(factor)):
            out = out_channels if done == factor // 2 else max(channels // (2 * done), 16)
            layers += [nn.ReLU(), nn.ConvTranspose2d(inside, out, 4, stride=2, padding=1)]
            inside = out
        super().__init__(*layers)


class PixelDecoder(nn.Module):
    """Quantized latents of all levels -> the ``out`` parameters of each pixel's distribution.

    ``strides`` in pixels and latent channels ``dims`` are of each level, coarse to fine.
    """

    def __init__(
        self, strides: Sequence[int], dims: Sequence[int], channels: int, residual: int, n_residual: int, out: int
    ) -> None:
        super().__init__()
        finest = strides[-1]
        self.upsample = nn.ModuleList(
            nn.Upsample(scale_factor=stride // finest) if stride > finest else nn.Identity() for stride in strides
        )
        self.net = Decoder(sum(dims), channels, out, finest, residual, n_residual)

    def forward(self, latents: Sequence[Tensor]) -> Tensor:
        """(B, D_i, h_i, w_i) of each level, coarse to fine -> (B, out, H, W)."""
        upsampled = [module(x) for module, x in zip(self.upsample, latents, strict=True)]
        return self.net(torch.cat(upsampled, dim=1))


class Level(nn.Module):
    """One level of an image codec: encoder, quantizer, and the context that the next finer level is conditioned on.

    Args:
        in_channels, factor: of the encoder's input (the image, or the features of the next finer level): channels, and
            this level's stride relative to it.
        quantizer: arguments of `make_quantizer`.
        coarser_dim: channels of the context from the next coarser level; 0 for the coarsest.
        context: whether a finer level is conditioned on these latents.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        residual: int,
        n_residual: int,
        factor: int,
        latent_dim: int,
        quantizer: dict[str, Any],
        coarser_dim: int,
        context: bool,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(in_channels, channels, factor, residual, n_residual)
        self.project = nn.Conv2d(channels + coarser_dim, latent_dim, 1)
        self.quantizer: Any = make_quantizer(latent_dim, **quantizer)
        self.context: Any = None
        if context:
            self.context = Decoder(latent_dim, channels, channels, factor, residual, n_residual)

    def latents(self, features: Tensor, coarser: Tensor | None) -> Tensor:
        """(B, channels, h, w) and the coarser level's context of the same size -> (B, latent_dim, h, w)."""
        return self.project(features if coarser is None else torch.cat([features, coarser], 1))


def make_quantizer(latent_dim: int, kind: str = "residual", n_codebooks: int = 1, **settings: Any) -> nn.Module:
    """A quantizer for latents of ``latent_dim`` channels, "residual" or "product".

    With one codebook both are plain vector quantization. Raises `AudioVQError` for another kind.
    """
    if kind not in QUANTIZERS:
        raise AudioVQError(f"unknown image quantizer {kind!r}; choose from {', '.join(QUANTIZERS)}")
    return QUANTIZERS[kind](latent_dim, n_codebooks=n_codebooks, **settings)


def halvings(factor: int) -> list[int]:
    """Remaining factor after each step of stride 2: 8 -> [4, 2, 1].

    Raises:
        ValueError: when ``factor`` is no power of two above one.
    """
    if factor < 2 or factor & (factor - 1):
        raise ValueError(f"strides are powers of two, at least 2; got {factor}")
    return [factor >> i for i in range(1, factor.bit_length())]


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

    A quantizer's posterior is deterministic and its prior uniform, so that the second part is log K for each code.
    """

    pixels: Tensor  # (B,) nats, the first part
    latents: Tensor  # (B,) nats, the second
    loss: Tensor  # scalar that training adds: the quantizers' losses
    image: Tensor  # (B, C, H, W) in [0, 1], the mean of the decoder's distribution
    metrics: dict[str, Tensor] = field(default_factory=dict)  # scalars to log

    def bits_per_dim(self) -> Tensor:
        """(B,), both parts in bits per value of an image."""
        return (self.pixels + self.latents) / (self.image[0].numel() * math.log(2))


class GaussianLatents(nn.Module):
    """A diagonal Gaussian posterior and a standard Gaussian prior (Kingma and Welling 2014)."""

    def __init__(self, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, 2 * latent_dim, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> a sample (B, latent_dim, h, w) and its divergence from the prior (B,) in nats."""
        mean, log_variance = self.project(features).chunk(2, dim=1)
        log_variance = log_variance.clamp(-14, 6)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        return z, divergence.flatten(1).sum(1)


class GumbelLatents(nn.Module):
    """Categorical latents, relaxed in training only (Jang et al. 2017; Maddison et al. 2017).

    ``n_codebooks`` variables at each position look up their vectors in one table, as in a `ProductQuantizer`. The
    divergence from the uniform prior is exact: ``log K - H(q)``. In training the sample is a softmax of the logits with
    Gumbel noise at a decreasing temperature; in evaluation it is one-hot, so that the bound is a bound.
    """

    temperature: Tensor

    def __init__(self, channels: int, latent_dim: int, n_codebooks: int, codebook_size: int) -> None:
        super().__init__()
        self.n_codebooks, self.codebook_size = n_codebooks, codebook_size
        self.project = nn.Conv2d(channels, n_codebooks * codebook_size, 1)
        self.table = nn.Parameter(torch.randn(codebook_size, latent_dim // n_codebooks))
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """As `GaussianLatents`."""
        logits = self.project(features).unflatten(1, (self.n_codebooks, -1)).movedim(2, -1)  # (B, K, h, w, V)
        log_q = F.log_softmax(logits, dim=-1)
        divergence = (log_q.exp() * (log_q + math.log(self.codebook_size))).sum(-1)
        noisy = log_q - torch.log(-torch.log(torch.rand_like(log_q).clamp(1e-9, 1 - 1e-7)))
        relaxed = F.softmax(noisy / self.temperature, dim=-1) if self.training else None
        z = self.table[noisy.argmax(-1)] if relaxed is None else relaxed @ self.table
        return z.movedim(-1, 2).flatten(1, 2), divergence.flatten(1).sum(1)


class ImageBaseline(Stored, nn.Module):
    """Encoder and decoder of an `ImageCodec` with one level, with other latents between them.

    Args:
        kind: "vae" or "gumbel".
        level: as in `ImageCodec`: ``stride``, ``latent_dim`` and, for "gumbel", ``quantizer`` with ``n_codebooks`` and
            ``codebook_size``.
        channels, residual, n_residual, image_channels, likelihood, name: those of `ImageCodec`.

    Raises:
        AudioVQError: for another kind.
    """

    def __init__(
        self,
        kind: str,
        level: dict[str, Any],
        channels: int = 128,
        residual: int = 64,
        n_residual: int = 2,
        image_channels: int = 3,
        likelihood: str = "logistic",
        name: str = "unnamed",
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = arguments(locals())
        stride, latent_dim = level["stride"], level["latent_dim"]
        self.encoder = Encoder(image_channels, channels, stride, residual, n_residual)
        self.latents: GaussianLatents | GumbelLatents
        if kind == "vae":
            self.latents = GaussianLatents(channels, latent_dim)
        elif kind == "gumbel":
            quantizer = level["quantizer"]
            self.latents = GumbelLatents(channels, latent_dim, quantizer["n_codebooks"], quantizer["codebook_size"])
        else:
            raise AudioVQError(f"unknown baseline {kind!r}; choose from vae, gumbel")
        self.likelihood = LIKELIHOODS[likelihood]()
        out = self.likelihood.n_parameters * image_channels
        self.decoder = PixelDecoder([stride], [latent_dim], channels, residual, n_residual, out)

    def bound(self, images: Tensor) -> Bound:
        """The variational bound with one sample, for images (B, C, H, W) in [0, 1]."""
        x = 2 * images - 1
        z, divergence = self.latents(self.encoder(x))
        parameters = self.decoder([z])
        pixels = self.likelihood.nll(parameters, x).flatten(1).sum(1)
        mean = (0.5 * self.likelihood.mean(parameters) + 0.5).clamp(0, 1)
        return Bound(pixels, divergence, pixels.new_zeros(()), mean)

    def anneal(self, done: float) -> None:
        """Set the temperature of relaxed latents, from 1 down to 0.4, for a share ``done`` of the training steps."""
        if isinstance(self.latents, GumbelLatents):
            self.latents.temperature.fill_(max(0.4, 0.4 ** (done / 0.7)))
