"""Training of video codecs and of dynamics in latent space."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from audiovq.data.episodes import CodeWindows, Episode, coded_episodes, open_episodes, to_video
from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.training.ema_task import EMATask
from audiovq.training.image import open_image_codec
from audiovq.video.clip_codec import ClipCodec
from audiovq.video.dynamics import LatentDynamics, NextFrame, check_frames, codebook_vectors, rough_image


class ClipWindows(Dataset):
    """Item i is decided by ``(seed, i)`` alone: ``clip`` (3, T, size, size) in [0, 1], a window of an episode.

    Args:
        episodes: those too short are left out.
        n_frames: T.
        size: pixels of a crop, at a random place; with ``seed=None`` in the middle.
        seed: of the draws. None: ``n_items`` windows spread evenly.

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


class ClipTask(EMATask):
    """Minimise the squared error of the pixels (nats of a Gaussian whose width is learned) and the quantizer's loss.

    Args:
        model: arguments of `ClipCodec`.
        recording: see `audiovq.data.episodes.open_episodes`.
        n_frames, size: of a training item.
        settings: of `EMATask`.
    """

    def __init__(
        self,
        model: dict[str, Any],
        recording: str,
        n_frames: int,
        size: int,
        seed: int,
        quantizer_weight: float = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(ClipCodec(**model), seed=seed, **settings)
        self.where, self.n_frames, self.size, self.quantizer_weight = recording, n_frames, size, quantizer_weight

    def datasets(self) -> tuple[Dataset, Dataset]:
        train, validation = (open_episodes(self.where, split) for split in ("train", "validation"))
        fixed = ClipWindows(validation, self.n_frames, self.size, n_items=self.validation_items)
        return ClipWindows(train, self.n_frames, self.size, self.seed), fixed

    def loss(self, model: ClipCodec, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        pixels, quantized = model(batch["clip"])
        nats = model.likelihood.nll(pixels.float(), 2 * batch["clip"] - 1).mean()
        logged = {"psnr": psnr(pixels, batch["clip"]), "perplexity": quantized.metrics["perplexity"]}
        return nats + self.quantizer_weight * quantized.loss, logged

    def measures(self, model: ClipCodec, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        pixels, quantized = model(batch["clip"])
        value = psnr(pixels, batch["clip"])
        return {"loss": -value, "psnr": value, "perplexity": quantized.metrics["perplexity"]}


def psnr(pixels: Tensor, clips: Tensor) -> Tensor:
    """Decibels, of pixels in [-1, 1] against clips (B, 3, T, H, W) in [0, 1]: the mean of the clips' values."""
    error = (0.5 * pixels.float() + 0.5 - clips).square().flatten(1).mean(1)
    return (-10 * torch.log10(error.clamp_min(1e-8))).mean()


log = logging.getLogger("audiovq")

# How an item of a batch goes on to its next frame: with the true one (and then parts of frames are told), the mean
# latents, or the likeliest codes. What a model reads when it runs free has to be met in training.
_WAYS = torch.tensor([0.3, 0.5, 0.2])
_DRAWN = 20.0  # weight of the rough pictures' errors
_HORIZON = 10  # frames predicted in validation


class DynamicsTask(EMATask):
    """Maximum likelihood of the next frames' codes, over a few frames that the model partly made itself.

    Args:
        dynamics: arguments of `LatentDynamics`, without those that the codec decides.
        frames: the frame codec, see `open_image_codec`.
        recording: see `audiovq.data.episodes.open_episodes`.
        scenario: only this one of the recording; None for all.
        n_unrolled: frames predicted in a row in training.
        blind: leave the actions out.
        settings: of `EMATask`.
    """

    def __init__(
        self,
        dynamics: dict[str, Any],
        frames: str,
        recording: str,
        seed: int,
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
        super().__init__(model, seed=seed, **settings)
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

    Args:
        frames: the true ones, (B, T, H, W, 3) uint8.
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
