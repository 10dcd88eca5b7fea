"""Recorded play: frames and the buttons that were held, one dataclass whatever world it came from.

A recording is a folder with ``manifest.jsonl`` (one line per episode), ``frames.u8`` (all frames end to end) and
``actions.u8`` (one byte per button and frame); both are memory-mapped, so that opening costs nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.files import cache_dir

MANIFEST = "manifest.jsonl"
BUTTONS = ("turn_left", "turn_right", "move_forward", "move_left", "move_right")
"""What the bytes of an action stand for."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One stretch of play without a cut.

    Attributes:
        id: unique within its recording.
        scenario: the world's map.
        split: "train", "validation" or "test".
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
    """Of ten episodes one is for testing and one for validation; never are frames of one episode in two splits."""
    return {8: "validation", 9: "test"}.get(index % 10, "train")


def write_episodes(folder: str | Path, episodes: Iterable[Episode]) -> int:
    """Write a recording beside its place and rename it; gives the number of frames.

    Raises:
        AudioVQError: when there are no episodes, or their frames or actions differ in shape.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        lines, offset, shapes = [], 0, set()
        with (temporary / "frames.u8").open("wb") as frames, (temporary / "actions.u8").open("wb") as actions:
            for episode in episodes:
                shapes.add((episode.frames.shape[1:], episode.actions.shape[1:]))
                if len(shapes) > 1:
                    raise AudioVQError(f"episode {episode.id} has frames or actions of another shape")
                frames.write(np.ascontiguousarray(episode.frames, np.uint8).tobytes())
                actions.write(np.ascontiguousarray(episode.actions, np.uint8).tobytes())
                line = {"id": episode.id, "scenario": episode.scenario, "split": episode.split, "offset": offset}
                lines.append({**line, "n_frames": len(episode)})
                offset += len(episode)
        if not lines:
            raise AudioVQError("nothing was recorded")
        ((shape, buttons),) = shapes
        with (temporary / MANIFEST).open("w") as manifest:
            for line in lines:
                manifest.write(json.dumps({**line, "shape": shape, "buttons": buttons[0]}) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
        return offset
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def open_episodes(
    where: str | Path = "vizdoom", split: str | None = None, scenario: str | None = None
) -> list[Episode]:
    """The episodes of a recording, memory-mapped, of one split and one scenario or (None) of all.

    Args:
        where: a folder, or the name of one under ``<cache>/data``.

    Raises:
        AudioVQError: when there is none, or it is cut short.
    """
    folder = Path(where) if (Path(where) / MANIFEST).is_file() else cache_dir() / "data" / where
    try:
        lines = [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]
        frames = np.memmap(folder / "frames.u8", np.uint8, "r").reshape(-1, *lines[0]["shape"])
        actions = np.memmap(folder / "actions.u8", np.uint8, "r").reshape(-1, lines[0]["buttons"])
    except FileNotFoundError:
        raise AudioVQError(f"no recording in {folder}: python recipes/video/record.py makes one") from None
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise AudioVQError(f"the recording in {folder} is damaged ({error}): record it again") from None
    if len(frames) != len(actions) or len(frames) != lines[-1]["offset"] + lines[-1]["n_frames"]:
        raise AudioVQError(f"the recording in {folder} is cut short: record it again")
    parts = [(line, slice(line["offset"], line["offset"] + line["n_frames"])) for line in lines]
    return [
        Episode(line["id"], line["scenario"], line["split"], frames[part], actions[part])
        for line, part in parts
        if split in (None, line["split"]) and scenario in (None, line["scenario"])
    ]
