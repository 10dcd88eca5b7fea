"""Baselines for the VQ-VAE: Gaussian and relaxed categorical latents between the same encoder and decoder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.image.nets import LIKELIHOODS, Bound, Encoder, PixelDecoder


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
        """(B, C, h, w) -> a sample (B, latent_dim, h, w) and its divergence from the prior (B,) in nats."""
        logits = self.project(features).unflatten(1, (self.n_codebooks, -1)).movedim(2, -1)  # (B, K, h, w, V)
        log_q = F.log_softmax(logits, dim=-1)
        divergence = (log_q.exp() * (log_q + math.log(self.codebook_size))).sum(-1)
        noisy = log_q - torch.log(-torch.log(torch.rand_like(log_q).clamp(1e-9, 1 - 1e-7)))
        relaxed = F.softmax(noisy / self.temperature, dim=-1) if self.training else None
        z = self.table[noisy.argmax(-1)] if relaxed is None else relaxed @ self.table
        return z.movedim(-1, 2).flatten(1, 2), divergence.flatten(1).sum(1)


class ImageBaseline(nn.Module):
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
        self.config: dict[str, Any] = dict(  # noqa: C408
            kind=kind,
            level=dict(level),
            channels=channels,
            residual=residual,
            n_residual=n_residual,
            image_channels=image_channels,
            likelihood=likelihood,
            name=name,
        )
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

    def save(self, folder: str | Path, dtype: Any = None) -> None:
        """Write ``config.json`` and ``model.safetensors``; weights as ``dtype``, float16 by default."""
        save_weights(self, folder, dtype)
