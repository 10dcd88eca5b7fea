"""The training task of a prior over one level of an image codec's codes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiovq.data.images import FixedCrops, ImageCrops, open_images
from audiovq.image.codec import ImageCodec
from audiovq.io import cache_dir
from audiovq.prior.pixel import PixelPrior
from audiovq.training.ema_task import EMATask


def open_image_codec(name: str | None) -> ImageCodec:
    """An image codec by the name of a run, a bundled model's, or a folder."""
    run = cache_dir() / "runs" / str(name) / "best"
    return ImageCodec.from_pretrained(run if name and (run / "config.json").is_file() else name)


class ImagePriorTask(EMATask):
    """Maximum likelihood of the codes of one level, which are made from crops as they come.

    Args:
        prior: arguments of `PixelPrior`, without those that the codec and the crops decide.
        codec: see `open_image_codec`.
        level: 0 is the coarsest; finer ones are conditioned on the one before.
        pictures, size, flip: as of `ImageTask`.
        label_dropout: share of items whose class is not told.
        settings: of `EMATask`.
    """

    def __init__(
        self,
        prior: dict[str, Any],
        codec: str | None,
        pictures: dict[str, Any],
        size: int,
        seed: int,
        level: int = 0,
        flip: bool = True,
        label_dropout: float = 0.1,
        **settings: Any,
    ) -> None:
        image_codec = open_image_codec(codec)
        n_codebooks, codebook_size, stride = image_codec.levels[level]
        context = None
        if level:
            books, entries, coarser = image_codec.levels[level - 1]
            context = (books, entries, coarser // stride)
        grid = image_codec.grid((size, size))[level]
        own = {"context": context, "codec": image_codec.model_hash.hex(), "size": grid}
        super().__init__(PixelPrior(n_codebooks, codebook_size, **own, **prior), seed=seed, **settings)  # type: ignore[arg-type]
        self._codec = [image_codec]  # in a list: its weights are no part of this task's state
        self.pictures, self.size, self.level, self.flip = pictures, size, level, flip
        self.label_dropout = label_dropout

    def datasets(self) -> tuple[Dataset, Dataset]:
        train = ImageCrops(open_images(self.pictures, "train"), self.size, self.seed, self.flip)
        return train, FixedCrops(open_images(self.pictures, "validation"), self.size, self.validation_items)

    def nats(self, model: PixelPrior, batch: dict[str, Tensor]) -> Tensor:
        """(B, K, h, w)."""
        codec, images = self._codec[0].to(self.device), batch["image"]
        edge = -(-self.size // codec.stride) * codec.stride - self.size
        codes = codec.encode_batch(torch.nn.functional.pad(images, (0, edge, 0, edge), mode="replicate"))
        label = batch["label"]
        if model.training:
            label = torch.where(torch.rand(len(label), device=label.device) < self.label_dropout, -1, label)
        return model.nll(codes[self.level], label=label, coarser=codes[self.level - 1] if self.level else None)

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        nats = self.nats(model, batch).mean()
        return nats, {"nats": nats}

    def measures(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        nats = self.nats(model, batch)
        bits = nats.flatten(1).sum(1).mean() / math.log(2)
        return {"loss": nats.mean(), "nats": nats.mean(), "bits_per_picture": bits}
