"""Training of image codecs, their priors and second stages, of video codecs, and of dynamics in latent space."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from audiovq.data.episodes import CodeWindows, Episode, coded_episodes, open_episodes, to_video
from audiovq.data.images import FixedCrops, ImageCrops, open_images
from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.image.codec import ImageCodec
from audiovq.image.nets import Bound, ImageBaseline
from audiovq.io import cache_dir
from audiovq.prior.image import SecondStage
from audiovq.prior.pixel import PixelPrior
from audiovq.training.task import DatasetTask, Place
from audiovq.video.clip_codec import ClipCodec
from audiovq.video.dynamics import LatentDynamics, NextFrame, check_frames, codebook_vectors, rough_image

log = logging.getLogger("audiovq")


def psnr(pixels: Tensor, truth: Tensor) -> Tensor:
    """The mean of the items' peak signal-to-noise ratios in dB; both (B, ...) in [0, 1]."""
    error = (pixels - truth).square().flatten(1).mean(1).clamp_min(1e-8)
    return (-10 * torch.log10(error)).mean()


class CropTask(DatasetTask):
    """A task on crops of ``size`` pixels of ``pictures``, see `open_images`; ``flip``: half of them are mirrored."""

    def __init__(self, model: Any, pictures: dict[str, Any], size: int, flip: bool = True, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.pictures, self.size, self.flip = pictures, size, flip

    def datasets(self) -> tuple[Dataset, Dataset]:
        train = ImageCrops(open_images(self.pictures, "train"), self.size, self.seed, self.flip)
        return train, FixedCrops(open_images(self.pictures, "validation"), self.size, self.validation_items)


class ImageTask(CropTask):
    """Minimise the pixels' nats, the divergence of the latents (baselines) and the quantizers' losses.

    ``model`` has the arguments of `ImageCodec`; with ``kind`` those of `ImageBaseline`, whose ``level`` is the first of
    ``levels``. ``quantizer_weight`` is beside nats for each value.
    """

    def __init__(self, model: dict[str, Any], quantizer_weight: float = 1.0, **settings: Any) -> None:
        super().__init__(make_image_model(model), **settings)
        self.quantizer_weight = quantizer_weight

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
    """Bits for each value, in all and of the latents, and the PSNR in dB."""
    return {
        "bits_per_dim": bound.bits_per_dim().mean(),
        "latent_bits": bound.latents.mean() / (images[0].numel() * math.log(2)),
        "psnr": psnr(bound.image, images),
    }


def open_image_codec(name: str | None) -> ImageCodec:
    """An image codec by the name of a run, a bundled model's, or a folder."""
    run = cache_dir() / "runs" / str(name) / "best"
    return ImageCodec.from_pretrained(run if name and (run / "config.json").is_file() else name)


class ImagePriorTask(CropTask):
    """Maximum likelihood of the codes of one level, which are made from crops as they come.

    ``prior`` has the arguments of `PixelPrior` that neither the codec (see `open_image_codec`) nor the crops decide.
    Level 0 is the coarsest; finer ones are conditioned on the one before. Of a share ``label_dropout`` of the items the
    class is not told.
    """

    def __init__(
        self,
        prior: dict[str, Any],
        codec: str | None,
        size: int,
        level: int = 0,
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
        own: dict[str, Any] = {"context": context, "codec": image_codec.model_hash.hex(), "size": grid}
        super().__init__(PixelPrior(n_codebooks, codebook_size, **own, **prior), size=size, **settings)
        self._codec = [image_codec]  # in a list: its weights are no part of this task's state
        self.level, self.label_dropout = level, label_dropout

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


class SecondStageTask(CropTask):
    """Minimise the bound in nats for each code, and the quantizer's loss.

    ``model`` has the arguments of `SecondStage` that neither the codec (see `open_image_codec`; one level, one book)
    nor the crops decide.
    """

    def __init__(
        self,
        model: dict[str, Any],
        codec: str | None,
        size: int,
        flip: bool = False,
        quantizer_weight: float = 0.1,
        **settings: Any,
    ) -> None:
        image_codec = open_image_codec(codec)
        grid = image_codec.grid((size, size))[0]
        own: dict[str, Any] = {"codebook_size": image_codec.levels[0][1], "codec": image_codec.model_hash.hex()}
        super().__init__(SecondStage(**own, size=grid, **model), size=size, flip=flip, **settings)
        self._codec = [image_codec]  # in a list: its weights are no part of this task's state
        self.quantizer_weight = quantizer_weight

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


class ClipWindows(Dataset):
    """Item i is decided by ``(seed, i)`` alone: ``clip`` (3, T, size, size) in [0, 1], a window of an episode.

    Crops are at random places. Episodes that are too short are left out. Without a seed there are ``n_items`` windows.

    Raises:
        AudioVQError: when no episode has so many frames, or frames are smaller than crops.
    """

    def __init__(
        self, episodes: Sequence[Episode], n_frames: int, size: int, seed: int | None = None, n_items: int = 32
    ) -> None:
        self.episodes = [e for e in episodes if len(e) >= n_frames]
        if not self.episodes or min(self.episodes[0].frames.shape[1:3]) < size:
            raise AudioVQError(f"no episode has {n_frames} frames of {size} pixels: record longer or larger ones")
        self.n_frames, self.size, self.seed, self.n_items = n_frames, size, seed, n_items

    def __len__(self) -> int:
        return self.n_items if self.seed is None else 1 << 40

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        random = np.random.default_rng((0 if self.seed is None else self.seed + 1, index))
        episode = self.episodes[int(random.integers(len(self.episodes)))]
        start = int(random.integers(len(episode) - self.n_frames + 1))
        top, left = (int(random.integers(edge - self.size + 1)) for edge in episode.frames.shape[1:3])
        part = episode.frames[start : start + self.n_frames, top : top + self.size, left : left + self.size]
        return {"clip": to_video(part)}


class ClipTask(DatasetTask):
    """Minimise the squared error of the pixels (nats of a Gaussian whose width is learned) and the quantizer's loss.

    ``model`` has the arguments of `ClipCodec`; ``recording`` is that of `audiovq.data.episodes.open_episodes`.
    """

    def __init__(self, model: dict[str, Any], recording: str, n_frames: int, size: int, **settings: Any) -> None:
        super().__init__(ClipCodec(**model), **settings)
        self.where, self.n_frames, self.size = recording, n_frames, size

    def datasets(self) -> tuple[Dataset, Dataset]:
        train, validation = (open_episodes(self.where, split) for split in ("train", "validation"))
        fixed = ClipWindows(validation, self.n_frames, self.size, n_items=self.validation_items)
        return ClipWindows(train, self.n_frames, self.size, self.seed), fixed

    def loss(self, model: ClipCodec, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        pixels, quantized = model(batch["clip"])
        nats = model.likelihood.nll(pixels.float(), 2 * batch["clip"] - 1).mean()
        logged = {
            "psnr": psnr(0.5 * pixels.float() + 0.5, batch["clip"]),
            "perplexity": quantized.metrics["perplexity"],
        }
        return nats + quantized.loss, logged

    def measures(self, model: ClipCodec, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        pixels, quantized = model(batch["clip"])
        value = psnr(0.5 * pixels.float() + 0.5, batch["clip"])
        return {"loss": -value, "psnr": value, "perplexity": quantized.metrics["perplexity"]}


# How an item of a batch goes on to its next frame: with the true one (and then parts of frames are told), the mean
# latents, or the likeliest codes. What a model reads when it runs free has to be met in training.
_WAYS = torch.tensor([0.3, 0.5, 0.2])
_DRAWN = 20.0  # weight of the rough pictures' errors
_HORIZON = 10  # frames predicted in validation


class DynamicsTask(DatasetTask):
    """Maximum likelihood of the next frames' codes, over a few frames that the model partly made itself.

    ``dynamics`` has the arguments of `LatentDynamics` that the codec of the frames (see `open_image_codec`) does not
    decide; ``recording`` and ``scenario`` (None: all) are those of `audiovq.data.episodes.open_episodes`. In training
    ``n_unrolled`` frames are predicted in a row; ``blind`` leaves the actions out.
    """

    def __init__(
        self,
        dynamics: dict[str, Any],
        frames: str,
        recording: str,
        scenario: str | None = None,
        n_unrolled: int = 4,
        blind: bool = False,
        **settings: Any,
    ) -> None:
        codec = check_frames(open_image_codec(frames))
        vectors = codebook_vectors(codec)
        size, dim = vectors.shape
        told = {**dynamics, "codec": codec.model_hash.hex(), **({"n_actions": 0} if blind else {})}
        model = LatentDynamics(size, dim, **told)
        model.vectors.copy_(vectors)
        super().__init__(model, **settings)
        self._codec = [codec]  # in a list: its weights are no part of this task's state
        self.where, self.scenario, self.n_unrolled = recording, scenario, n_unrolled

    def datasets(self) -> tuple[Dataset, Dataset]:
        train, validation = (open_episodes(self.where, split, self.scenario) for split in ("train", "validation"))
        length = self.model.n_context + self.n_unrolled
        coded = coded_episodes(self._codec[0], train, _tell)
        judged = coded_episodes(self._codec[0], validation)
        fixed = CodeWindows(judged, self.model.n_context + _HORIZON, n_items=self.validation_items)
        return CodeWindows(coded, length, self.seed), fixed

    def loss(self, model: LatentDynamics, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        codes = batch["codes"]
        way = torch.multinomial(_WAYS.to(codes.device), len(codes), replacement=True).view(-1, 1, 1, 1)
        losses, frames = unrolled(model, codes, batch["actions"], way)
        drawn = rough_errors(frames, batch["frames"], model.n_context)
        logged = {"nats": losses[0], "nats_last": losses[-1], "drawn": drawn[0], "moved": drawn[1]}
        return torch.stack(losses).mean() + _DRAWN * sum(drawn), logged

    def measures(self, model: LatentDynamics, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nats of each code when the model goes on from its own means; of the first frame, and over all."""
        way = torch.ones(len(batch["codes"]), 1, 1, 1, dtype=torch.int64, device=batch["codes"].device)
        losses, _ = unrolled(model, batch["codes"], batch["actions"], way)
        return {"loss": torch.stack(losses).mean(), "nats_first": losses[0], "nats_last": losses[-1]}

    def export(self, folder: Path) -> None:
        """The dynamics alone: its codec has its own folder."""
        save_weights(self.average, folder)


def unrolled(
    model: LatentDynamics, codes: Tensor, actions: Tensor, way: Tensor
) -> tuple[list[Tensor], list[NextFrame]]:
    """Nats of each code of the frames behind the first ``n_context``, a mean for each frame; and what was predicted.

    Args:
        codes: (B, 1, T, h, w).
        actions: (B, T - 1, A).
        way: (B, 1, 1, 1); how each item goes on, an index into the ways above. Items that go on with the true frame are
            told random parts of what they predict, which are left out of the mean.
    """
    n_context, latents = model.n_context, model.embed(codes)
    window = model.features(latents[:, :, :n_context])
    losses, frames = [], []
    for i in range(codes.shape[2] - n_context):
        target, truth = codes[:, 0, n_context + i], latents[:, :, n_context + i]
        share = torch.rand(way.shape, device=way.device) * (way == 0)
        known = (torch.rand(target[:, None].shape, device=way.device) < share).to(truth.dtype)
        frames.append(model.predict(window, actions[:, i : i + n_context], truth, known))
        logits = frames[-1].logits
        open_ = 1 - known[:, 0]
        nats = F.cross_entropy(logits.float(), target, reduction="none")
        losses.append((nats * open_).sum() / open_.sum().clamp_min(1))
        with torch.no_grad():
            mean = model.expected(logits)
            likeliest = model.embed(logits.argmax(1)[:, None])
            following = torch.where(way == 0, truth, torch.where(way == 1, mean, likeliest))
        window = torch.cat([window[:, :, 1:], model.features(following[:, :, None])], 2)
    return losses, frames


def rough_errors(predicted: list[NextFrame], frames: Tensor, n_context: int) -> tuple[Tensor, Tensor]:
    """Squared errors of the rough pictures that the maps draw: of the frame before, and of the predicted one.

    They teach the map what pictures are and where things go; without them that takes many times as long.

    The true frames are (B, T, H, W, 3) uint8.
    """
    size = predicted[0].before.shape[-2:]
    targets = [
        F.interpolate(frames[:, n_context - 1 + i].permute(0, 3, 1, 2).float() / 255, size, mode="area")
        for i in range(len(predicted) + 1)
    ]
    before = [F.mse_loss(rough_image(p.before), t) for p, t in zip(predicted, targets[:-1], strict=True)]
    moved = [F.mse_loss(rough_image(p.moved), t) for p, t in zip(predicted, targets[1:], strict=True)]
    return torch.stack(before).mean(), torch.stack(moved).mean()


def _tell(done: int, total: int) -> None:
    if done % 20 == 0 or done == total:
        log.info("coded %d of %d episodes", done, total)
