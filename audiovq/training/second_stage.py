"""The training task of the second stage: an autoencoder over an image codec's codes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiovq.data.images import FixedCrops, ImageCrops, open_images
from audiovq.prior.second_stage import SecondStage
from audiovq.training.ema_task import EMATask
from audiovq.training.image_prior import open_image_codec


class SecondStageTask(EMATask):
    """Minimise the bound in nats for each code, and the quantizer's loss.

    Args:
        model: arguments of `SecondStage`, without those that the codec and the crops decide.
        codec: see `open_image_codec`; one level, one book.
        pictures, size, flip: as of `ImageTask`.
        quantizer_weight: of the quantizer's loss.
        settings: of `EMATask`.
    """

    def __init__(
        self,
        model: dict[str, Any],
        codec: str | None,
        pictures: dict[str, Any],
        size: int,
        seed: int,
        flip: bool = False,
        quantizer_weight: float = 0.1,
        **settings: Any,
    ) -> None:
        image_codec = open_image_codec(codec)
        grid = image_codec.grid((size, size))[0]
        own = {"codebook_size": image_codec.levels[0][1], "size": grid, "codec": image_codec.model_hash.hex()}
        super().__init__(SecondStage(**own, **model), seed=seed, **settings)  # type: ignore[arg-type]
        self._codec = [image_codec]  # in a list: its weights are no part of this task's state
        self.pictures, self.size, self.flip = pictures, size, flip
        self.quantizer_weight = quantizer_weight

    def datasets(self) -> tuple[Dataset, Dataset]:
        train = ImageCrops(open_images(self.pictures, "train"), self.size, self.seed, self.flip)
        return train, FixedCrops(open_images(self.pictures, "validation"), self.size, self.validation_items)

    def codes(self, batch: dict[str, Tensor]) -> Tensor:
        return self._codec[0].to(self.device).encode_batch(batch["image"])[0]

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        codes = self.codes(batch)
        bound = model.bound(codes)
        nats = bound.codes if model.kind == "vq" else bound.codes + bound.latents
        logged = {"nats": bound.codes.mean() / codes[0].numel(), "latent_bits": bound.latents.mean() / math.log(2)}
        return nats.mean() / codes[0].numel() + self.quantizer_weight * bound.loss, logged | bound.metrics

    def measures(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``told_bits``: how much worse the decoder does when it is told another picture's latents, bits a picture."""
        codes = self.codes(batch)
        bound = model.bound(codes)
        told = model.decoder.nll(codes, vectors=model.latents(codes))
        other = model.decoder.nll(codes, vectors=model.latents(codes.roll(1, 0)))
        gain = (other - told).flatten(1).sum(1).mean() / math.log(2)
        loss = (bound.codes + bound.latents).mean() / codes[0].numel()
        bits = torch.stack([bound.codes.mean(), bound.latents.mean()]) / math.log(2)
        return {"loss": loss, "code_bits": bits[0], "latent_bits": bits[1], "told_bits": gain}
