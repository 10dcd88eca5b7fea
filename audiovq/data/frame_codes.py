"""Episodes as codes of a frame codec, made once and kept; and windows of them to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiovq.data.episodes import Episode
from audiovq.errors import AudioVQError
from audiovq.files import atomic_write, cache_dir
from audiovq.image import ImageCodec

_BATCH = 32


@dataclass(frozen=True)
class CodedEpisode:
    """An episode's codes (T, h, w) uint16, beside its frames (T, H, W, 3) and actions (T, n_buttons) uint8."""

    id: str
    codes: np.ndarray
    actions: np.ndarray
    frames: np.ndarray


def clip_of(frames: np.ndarray) -> Tensor:
    """Frames (T, H, W, 3) uint8 -> (3, T, H, W) float in [0, 1]."""
    return torch.from_numpy(np.array(frames)).permute(3, 0, 1, 2).float() / 255


def coded_episodes(
    codec: ImageCodec, episodes: Sequence[Episode], progress: Callable[[int, int], None] | None = None
) -> list[CodedEpisode]:
    """The episodes' codes, from the cache or made now. ``progress`` hears of each episode coded."""
    digest = hashlib.sha256(codec.model_hash)
    for episode in episodes:
        digest.update(f"{episode.id} {len(episode)}".encode() + np.ascontiguousarray(episode.frames[:1]).tobytes())
        digest.update(episode.actions.tobytes())
    path = cache_dir() / "codes" / f"frames-{codec.model_hash.hex()}-{digest.hexdigest()[:12]}.npz"
    if path.is_file():
        with np.load(path) as stored:
            codes = stored["codes"]
    else:
        parts = []
        for i, episode in enumerate(episodes):
            parts.append(code_frames(codec, episode.frames))
            if progress:
                progress(i + 1, len(episodes))
        codes = np.concatenate(parts)
        with atomic_write(path) as temporary:
            np.savez_compressed(temporary, codes=codes)
    ends = np.cumsum([len(episode) for episode in episodes])
    return [
        CodedEpisode(e.id, codes[end - len(e) : end], np.array(e.actions), e.frames)
        for e, end in zip(episodes, ends, strict=True)
    ]


def code_frames(codec: ImageCodec, frames: np.ndarray) -> np.ndarray:
    """Codes (T, h, w) uint16 of frames (T, H, W, 3) uint8."""
    from audiovq.video.rollout import frame_codes

    parts = [clip_of(frames[i : i + _BATCH])[None] for i in range(0, len(frames), _BATCH)]
    return np.concatenate([frame_codes(codec, part)[0, 0].numpy() for part in parts]).astype(np.uint16)


class CodeWindows(Dataset):
    """Item i is decided by ``(seed, i)`` alone: ``codes`` (1, T, h, w), ``actions`` (T - 1, A), ``frames``.

    Codes are int64, actions float32, frames (T, H, W, 3) uint8.

    Args:
        episodes: those too short for a window are left out.
        n_frames: T.
        seed: of the draws. None: ``n_items`` windows spread evenly, the same whoever asks.

    Raises:
        AudioVQError: when no episode has so many frames.
    """

    def __init__(
        self, episodes: Sequence[CodedEpisode], n_frames: int, seed: int | None = None, n_items: int = 64
    ) -> None:
        self.episodes = [e for e in episodes if len(e.codes) >= n_frames]
        if not self.episodes:
            raise AudioVQError(f"no episode has {n_frames} frames: record longer ones")
        self.n_frames, self.seed = n_frames, seed
        self.ends = np.cumsum([len(e.codes) - n_frames + 1 for e in self.episodes])
        self.fixed = np.linspace(0, self.ends[-1] - 1, min(n_items, self.ends[-1])).round().astype(int)

    def __len__(self) -> int:
        return len(self.fixed) if self.seed is None else 1 << 40

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if self.seed is None:
            place = int(self.fixed[index])
        else:
            place = int(np.random.default_rng((self.seed, index)).integers(self.ends[-1]))
        i = int(np.searchsorted(self.ends, place, "right"))
        episode = self.episodes[i]
        start = place - int(self.ends[i]) + len(episode.codes) - self.n_frames + 1
        stop = start + self.n_frames
        return {
            "codes": torch.from_numpy(episode.codes[start:stop].astype(np.int64))[None],
            "actions": torch.from_numpy(episode.actions[start : stop - 1].astype(np.float32)),
            "frames": torch.from_numpy(np.array(episode.frames[start:stop])),
        }
