"""The training task of the clip codec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiovq.data.episodes import Episode, open_episodes, to_video
from audiovq.errors import AudioVQError
from audiovq.training.ema_task import EMATask
from audiovq.video.clip_codec import ClipCodec


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
