"""Recorded episodes of frames and actions, and their codes.

A recording is a folder with ``manifest.jsonl`` (one line per episode), ``frames.u8`` (all frames, concatenated) and
``actions.u8`` (one byte per button and frame); both are memory-mapped.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audiovq.data.utterance import MANIFEST, atomic_folder
from audiovq.errors import AudioVQError
from audiovq.image import ImageCodec
from audiovq.io import atomic_write, cache_dir
from audiovq.video.dynamics import frame_codes

BUTTONS = ("turn_left", "turn_right", "move_forward", "move_left", "move_right")
"""Meaning of the bytes of an action."""
_BATCH = 32  # frames

# -- recordings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Episode:
    """Consecutive frames and actions on a map, the scenario.

    Attributes:
        frames: (T, H, W, 3) uint8, RGB.
        actions: (T, n_buttons) uint8, 0 or 1. ``actions[t]`` is held while frame ``t`` becomes frame ``t + 1``.
    """

    id: str
    scenario: str
    split: str
    frames: np.ndarray = field(repr=False)
    actions: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.frames)


def split_of_episode(index: int) -> str:
    """Split by number: of ten episodes one is test and one validation, so that no episode is in two splits."""
    return {8: "validation", 9: "test"}.get(index % 10, "train")


def write_episodes(folder: str | Path, episodes: Iterable[Episode]) -> int:
    """Write a recording, atomically; returns the number of frames.

    Raises:
        AudioVQError: when there are no episodes, or their frames or actions differ in shape.
    """
    with atomic_folder(folder) as temporary:
        lines, offset, shapes = [], 0, set()
        with (temporary / "frames.u8").open("wb") as frames, (temporary / "actions.u8").open("wb") as actions:
            for episode in episodes:
                shapes.add((episode.frames.shape[1:], episode.actions.shape[1:]))
                if len(shapes) > 1:
                    raise AudioVQError(f"episode {episode.id} has frames or actions of a different shape")
                frames.write(np.ascontiguousarray(episode.frames, np.uint8).tobytes())
                actions.write(np.ascontiguousarray(episode.actions, np.uint8).tobytes())
                line = {"id": episode.id, "scenario": episode.scenario, "split": episode.split, "offset": offset}
                lines.append({**line, "n_frames": len(episode)})
                offset += len(episode)
        if not lines:
            raise AudioVQError("nothing was recorded")
        ((shape, buttons),) = shapes
        with (temporary / MANIFEST).open("w") as manifest:
            more = {"shape": shape, "buttons": buttons[0]}
            manifest.writelines(json.dumps({**line, **more}) + "\n" for line in lines)
    return offset


def open_episodes(
    where: str | Path = "vizdoom", split: str | None = None, scenario: str | None = None
) -> list[Episode]:
    """The episodes of a recording, memory-mapped, of one split and one scenario (None: of all).

    Args:
        where: a folder, or the name of one under ``<cache>/data``.

    Raises:
        AudioVQError: when there is no recording, or it is damaged or truncated.
    """
    folder = Path(where) if (Path(where) / MANIFEST).is_file() else cache_dir() / "data" / where
    try:
        lines = [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]
        frames = np.memmap(folder / "frames.u8", np.uint8, "r").reshape(-1, *lines[0]["shape"])
        actions = np.memmap(folder / "actions.u8", np.uint8, "r").reshape(-1, lines[0]["buttons"])
    except FileNotFoundError:
        raise AudioVQError(f"no recording in {folder}: create one with python recipes/video/record.py") from None
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise AudioVQError(f"the recording in {folder} is damaged ({error}): record it again") from None
    if len(frames) != len(actions) or len(frames) != lines[-1]["offset"] + lines[-1]["n_frames"]:
        raise AudioVQError(f"the recording in {folder} is truncated: record it again")
    parts = [(line, slice(line["offset"], line["offset"] + line["n_frames"])) for line in lines]
    return [
        Episode(line["id"], line["scenario"], line["split"], frames[part], actions[part])
        for line, part in parts
        if split in (None, line["split"]) and scenario in (None, line["scenario"])
    ]


# -- codes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CodedEpisode:
    """An episode with its codes (T, h, w) uint16; actions and frames as in `Episode`."""

    id: str
    codes: np.ndarray
    actions: np.ndarray
    frames: np.ndarray


def to_video(frames: np.ndarray) -> Tensor:
    """Frames (T, H, W, 3) uint8 -> (3, T, H, W) float in [0, 1]."""
    return torch.from_numpy(np.array(frames)).permute(3, 0, 1, 2).float() / 255


def coded_episodes(
    codec: ImageCodec, episodes: Sequence[Episode], progress: Callable[[int, int], None] | None = None
) -> list[CodedEpisode]:
    """Encode the frames of episodes, or read their codes from the cache.

    The cache's key is a hash of the model, of all frames and of all actions. A damaged entry is computed again.

    Args:
        codec: with one level and one codebook.
        progress: called after each encoded episode, with their number and the total.
    """
    path = cache_dir() / "codes" / f"frames-{codec.model_hash.hex()}-{_content_hash(codec, episodes)}.npz"
    ends = np.cumsum([len(episode) for episode in episodes])
    codes = _cached_codes(path, int(ends[-1]) if len(ends) else 0)
    if codes is None:
        parts = []
        for i, episode in enumerate(episodes):
            parts.append(encode_frames(codec, episode.frames))
            if progress:
                progress(i + 1, len(episodes))
        codes = np.concatenate(parts)
        with atomic_write(path) as temporary:
            np.savez_compressed(temporary, codes=codes)
    return [
        CodedEpisode(e.id, codes[end - len(e) : end], np.array(e.actions), e.frames)
        for e, end in zip(episodes, ends, strict=True)
    ]


def _content_hash(codec: ImageCodec, episodes: Sequence[Episode]) -> str:
    digest = hashlib.sha256(codec.model_hash)
    for episode in episodes:
        digest.update(f"{episode.id} {episode.frames.shape} {episode.actions.shape}".encode())
        digest.update(np.ascontiguousarray(episode.frames).data)
        digest.update(np.ascontiguousarray(episode.actions).data)
    return digest.hexdigest()[:16]


def _cached_codes(path: Path, n_frames: int) -> np.ndarray | None:
    try:
        with np.load(path) as stored:
            codes = stored["codes"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return codes if len(codes) == n_frames else None


def encode_frames(codec: ImageCodec, frames: np.ndarray) -> np.ndarray:
    """Codes (T, h, w) uint16 of frames (T, H, W, 3) uint8."""
    parts = [to_video(frames[i : i + _BATCH])[None] for i in range(0, len(frames), _BATCH)]
    return np.concatenate([frame_codes(codec, part)[0, 0].numpy() for part in parts]).astype(np.uint16)


class CodeWindows(Dataset):
    """Windows of T frames: ``codes`` (1, T, h, w) int64, ``actions`` (T - 1, A) float32, ``frames`` (T, H, W, 3) uint8.

    Args:
        episodes: those too short for a window are left out.
        n_frames: T.
        seed: item i is a function of ``(seed, i)`` alone. None: ``n_items`` fixed windows, evenly spaced.

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
            position = int(self.fixed[index])
        else:
            position = int(np.random.default_rng((self.seed, index)).integers(self.ends[-1]))
        i = int(np.searchsorted(self.ends, position, "right"))
        episode = self.episodes[i]
        start = position - int(self.ends[i]) + len(episode.codes) - self.n_frames + 1
        stop = start + self.n_frames
        return {
            "codes": torch.from_numpy(episode.codes[start:stop].astype(np.int64))[None],
            "actions": torch.from_numpy(episode.actions[start : stop - 1].astype(np.float32)),
            "frames": torch.from_numpy(np.array(episode.frames[start:stop])),
        }
