"""Sampling of images by an image codec and a prior for each of its levels, and the second stage of such a codec.

The second stage is an autoencoder over codes, whose decoder is a PixelCNN (van den Oord et al. 2017, section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiovq.devices import arguments
from audiovq.errors import AudioVQError
from audiovq.image.codec import EncodedImage, ImageCodec
from audiovq.nn import Stored
from audiovq.prior.pixel import PixelPrior
from audiovq.prior.sampling import SamplingConfig
from audiovq.quantize import ProductQuantizer


def prior_folder(model: Path, level: int) -> Path:
    """Folder of the prior of a level (0 is the coarsest) in an image model's folder."""
    return model / f"prior_{level}"


def load_priors(codec: ImageCodec) -> list[PixelPrior]:
    """The priors in a loaded codec's folder, coarse to fine; an empty list when one is missing.

    Raises:
        AudioVQError: when one is damaged.
    """
    if codec.folder is None:
        return []
    folders = [prior_folder(codec.folder, level) for level in range(len(codec.levels))]
    if not all((folder / "config.json").is_file() for folder in folders):
        return []
    return [PixelPrior.from_pretrained(folder) for folder in folders]


class ImagePrior:
    """Samples codes level by level, coarse to fine, each conditioned on the coarser one.

    Raises:
        AudioVQError: when codec and priors do not fit each other.
    """

    def __init__(self, codec: ImageCodec, priors: list[PixelPrior]) -> None:
        levels = [(k, n) for k, n, _ in codec.levels]
        if [(p.n_codebooks, p.codebook_size) for p in priors] != levels:
            raise AudioVQError(f"the priors do not fit the levels {levels} of model {codec.name}")
        stale = [p.name for p in priors if p.codec not in ("", codec.model_hash.hex())]
        if stale:
            raise AudioVQError(f"prior {stale[0]} was trained on the codes of another model than {codec.name}")
        self.codec, self.priors = codec, priors

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None) -> ImagePrior:
        """Load a bundled image model, or one in a folder, with the priors in its folder.

        Raises:
            AudioVQError: when the model or a prior is missing or damaged.
        """
        codec = ImageCodec.from_pretrained(name_or_dir)
        priors = load_priors(codec)
        if not priors:
            raise AudioVQError(f"model {codec.name} has no priors in {codec.folder}: train them (see recipes/images)")
        return cls(codec, priors)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        height, width = self.priors[-1].size
        return height * self.codec.levels[-1][2], width * self.codec.levels[-1][2]

    @property
    def n_classes(self) -> int:
        """Number of classes; 0 for an unconditional model."""
        return int(self.priors[0].config["n_classes"])

    def sample(
        self,
        n: int = 1,
        label: int | None = None,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        first: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> EncodedImage:
        """Sample the codes of ``n`` images; see `PixelPrior.sample`.

        Args:
            label: class index; None for no class.
            progress: called with the number of codes done and the total.

        Raises:
            AudioVQError: for a class that the model does not have.
        """
        if label is not None and not 0 <= label < self.n_classes:
            raise AudioVQError(f"model {self.codec.name} has {self.n_classes} classes, got class {label}")
        labels = None if label is None else torch.full((n,), label)
        codes: list[Tensor] = []
        n_codes = sum(math.prod(prior.size) for prior in self.priors)
        for prior in self.priors:
            before = sum(c[0].numel() for c in codes)

            def report(rows: int, _: int, before: int = before, width: int = prior.size[1]) -> None:
                if progress is not None:
                    progress(before + rows * width, n_codes)

            coarser = codes[-1] if prior.context is not None else None
            codes.append(prior.sample(n, sampling, seed, first, report, label=labels, coarser=coarser))
        return EncodedImage(tuple(codes), self.size)


@dataclass
class SecondBound:
    """The two parts of the variational bound for each image, in nats; see `audiovq.image.nets.Bound`."""

    codes: Tensor  # (B,), the decoder's ``-log p(codes | z)``
    latents: Tensor  # (B,), the divergence from the prior; ``log K`` for each quantized latent
    loss: Tensor  # scalar that training adds
    metrics: dict[str, Tensor] = field(default_factory=dict)  # scalars to log


class CodeEncoder(nn.Sequential):
    """Codes of an image (B, H, W) -> one vector (B, out)."""

    def __init__(self, codebook_size: int, size: tuple[int, int], channels: int, out: int) -> None:
        layers: list[nn.Module] = [nn.Embedding(codebook_size, channels), _ChannelsFirst()]
        height, width = size
        while max(height, width) > 4:
            layers += [nn.Conv2d(channels, channels, 3, stride=2, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
            height, width = -(-height // 2), -(-width // 2)
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels * height * width, out))


class _ChannelsFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 1)


class SecondStage(Stored, nn.Module):
    """A few latents for all codes of an image, and a PixelCNN that samples the codes given the latents.

    Args:
        kind: "vq": ``n_latents`` discrete latents; "vae": as many Gaussian ones, whose divergence is in the bound, so
            that the decoder learns to ignore them (posterior collapse).
        codebook_size, size: of the codes that are modelled, of one codebook.
        n_latents, n_entries, latent_dim: of the latents: number, codebook size, channels of each.
        channels: of the encoder.
        decoder: further arguments of `PixelPrior`.
        quantizer: further arguments of `ProductQuantizer`. An image has few latents, so that a codebook should start
            from many batches (``init_batches``), after the encoder has learned for a while (``init_after``).
        codec: the model hash, in hexadecimal, of the codec whose codes are modelled; "" for none.
        name: for messages.

    Raises:
        AudioVQError: for another kind.
    """

    def __init__(
        self,
        kind: str,
        codebook_size: int,
        size: tuple[int, int],
        n_latents: int = 3,
        n_entries: int = 512,
        latent_dim: int = 32,
        channels: int = 64,
        decoder: dict[str, Any] | None = None,
        quantizer: dict[str, Any] | None = None,
        codec: str = "",
        name: str = "second_stage",
    ) -> None:
        decoder, quantizer = decoder or {}, quantizer or {}
        super().__init__()
        self.config: dict[str, Any] = arguments(locals())
        if kind not in ("vq", "vae"):
            raise AudioVQError(f"unknown second stage {kind!r}; choose from vq, vae")
        self.kind, self.n_latents, self.n_entries, self.codec = kind, n_latents, n_entries, codec
        total = n_latents * latent_dim
        self.encoder = CodeEncoder(codebook_size, size, channels, total if kind == "vq" else 2 * total)
        self.quantizer = None
        if kind == "vq":
            self.quantizer = ProductQuantizer(total, n_latents, codebook_size=n_entries, **quantizer)
        self.decoder = PixelPrior(1, codebook_size, size, context_dim=total, **decoder)

    @property
    def bits(self) -> float:
        """Bits of an image's discrete latents."""
        return self.n_latents * math.log2(self.n_entries)

    def posterior(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, 1, H, W) -> mean and log variance (B, n_latents * latent_dim) of Gaussian latents."""
        mean, log_variance = self.encoder(codes[:, 0]).chunk(2, dim=1)
        return mean, log_variance.clamp(-14, 6)

    def latents(self, codes: Tensor) -> Tensor:
        """The decoder's condition (B, n_latents * latent_dim): quantized latents, or means of the posterior."""
        if self.quantizer is None:
            return self.posterior(codes)[0]
        return self.quantizer.decode(self.encode(codes))

    def encode(self, codes: Tensor) -> Tensor:
        """Codes (B, 1, H, W) -> discrete latents (B, n_latents).

        Raises:
            AudioVQError: when the latents are not discrete.
        """
        if self.quantizer is None:
            raise AudioVQError(f"the latents of {self.config['name']} are not discrete")
        return self.quantizer.encode(self.encoder(codes[:, 0]))

    def bound(self, codes: Tensor) -> SecondBound:
        """The two parts of the bound for codes (B, 1, H, W)."""
        if self.quantizer is not None:
            quantized = self.quantizer(self.encoder(codes[:, 0]))
            z, loss, metrics = quantized.latents, quantized.loss, quantized.metrics
            divergence = z.new_full((len(codes),), self.n_latents * math.log(self.n_entries))
            metrics = {name: metrics[name] for name in ("perplexity", "usage_window")}
        else:
            mean, log_variance = self.posterior(codes)
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
            loss, metrics = z.new_zeros(()), {}
        nats = self.decoder.nll(codes, vectors=z).flatten(1).sum(1)
        return SecondBound(nats, divergence, loss, metrics)

    def sample(self, latents: Tensor, sampling: SamplingConfig | None = None, seed: int = 0) -> Tensor:
        """Latents as `latents` gives them (B, n_latents * latent_dim) -> sampled codes (B, 1, H, W)."""
        return self.decoder.sample(len(latents), sampling, seed, vectors=latents)
