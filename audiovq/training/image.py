"""The training task of image autoencoders: VQ-VAE, VQ-VAE-2 and what they are compared with."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiovq.data.images import FixedCrops, ImageCrops, open_images
from audiovq.image.baselines import ImageBaseline
from audiovq.image.codec import ImageCodec
from audiovq.image.likelihoods import Bound
from audiovq.training.ema_task import EMATask
from audiovq.training.loop import Place


class ImageTask(EMATask):
    """Minimise the pixels' nats, the divergence of the latents (baselines) and the quantizers' losses.

    Args:
        model: arguments of `ImageCodec`; with ``kind`` those of `ImageBaseline`, whose ``level`` is the first of
            ``levels``.
        pictures: see `open_images`.
        size: pixels of a crop.
        flip: mirror half of the crops.
        quantizer_weight: of the quantizers' losses, beside nats for each value.
        settings: of `EMATask`.
    """

    def __init__(
        self,
        model: dict[str, Any],
        pictures: dict[str, Any],
        size: int,
        seed: int,
        flip: bool = True,
        quantizer_weight: float = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(make_image_model(model), seed=seed, **settings)
        self.pictures, self.size, self.flip = pictures, size, flip
        self.quantizer_weight = quantizer_weight

    def datasets(self) -> tuple[Dataset, Dataset]:
        train = ImageCrops(open_images(self.pictures, "train"), self.size, self.seed, self.flip)
        return train, FixedCrops(open_images(self.pictures, "validation"), self.size, self.validation_items)

    def before_step(self, place: Place) -> None:
        if isinstance(self.model, ImageBaseline):
            self.model.anneal(place.progress)

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        bound = model.bound(batch["image"])
        logged = figures(bound, batch["image"]) | bound.metrics
        values = batch["image"][0].numel()
        nats = bound.pixels if isinstance(model, ImageCodec) else bound.pixels + bound.latents
        return nats.mean() / values + self.quantizer_weight * bound.loss, logged

    def measures(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        bound = model.bound(batch["image"])
        measures = figures(bound, batch["image"]) | bound.metrics
        return measures | {"loss": measures["bits_per_dim"]}


def make_image_model(settings: dict[str, Any]) -> ImageCodec | ImageBaseline:
    """A codec, or the baseline that ``kind`` names."""
    arguments = dict(settings)
    kind = arguments.pop("kind", "codec")
    if kind == "codec":
        return ImageCodec(**arguments)
    return ImageBaseline(kind, arguments.pop("levels")[0], **arguments)


def figures(bound: Bound, images: Tensor) -> dict[str, Tensor]:
    """Bits for each value, in all and of the latents, and the PSNR of the mean squared error of each picture, in dB."""
    error = (bound.image - images).square().flatten(1).mean(1).clamp_min(1e-8)
    return {
        "bits_per_dim": bound.bits_per_dim().mean(),
        "latent_bits": bound.latents.mean() / (images[0].numel() * math.log(2)),
        "psnr": (-10 * torch.log10(error)).mean(),
    }
