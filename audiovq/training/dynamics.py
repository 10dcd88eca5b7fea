"""The training task of the dynamics of frames in latent space."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from audiovq.data.episodes import CodeWindows, coded_episodes, open_episodes
from audiovq.hub import save_weights
from audiovq.training.ema_task import EMATask
from audiovq.training.image_prior import open_image_codec
from audiovq.video.dynamics import LatentDynamics, NextFrame, rough_image
from audiovq.video.rollout import check_frames, codebook_vectors

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
