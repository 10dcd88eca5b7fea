"""Training of image codecs, their priors, and second stages."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiovq.data.images import FixedCrops, ImageCrops, open_images
from audiovq.image.codec import ImageCodec
from audiovq.image.nets import Bound, ImageBaseline
from audiovq.io import cache_dir
from audiovq.prior.image import SecondStage
from audiovq.prior.pixel import PixelPrior
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
