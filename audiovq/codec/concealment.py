"""Frames in the place of lost packets: the speech on either side carried on, and faded out where the gap is long.

Latents, pitch and level go in a straight line from the last frame before the gap to the first behind it, as far as
that has arrived; else the last frame is held. The harmonic source keeps its phase, since it runs through the gap on the
filled pitch. (Holding and fading as in ITU-T G.711, appendix I; here on the decoder's input rather than on samples, so
that the decoder itself joins both ends.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiovq.codec.signal import LOWEST_DB
from audiovq.interfaces import UNVOICED

if TYPE_CHECKING:
    from torch import Tensor

HELD_SECONDS = 0.08
"""Time from the nearest frame that has arrived over which speech is carried on at full level."""
FALL_DB_PER_SECOND = 625.0
"""Fall of the level beyond that: silent from 0.16 s on."""
SILENT_DB = 50.0
"""Frames that fell by so much become silence."""


@dataclass(frozen=True)
class Frames:
    """Input of the decoder for some frames.

    Attributes:
        latents: (C, F).
        pitch: (F,) pitch codes.
        level: (F,) dB.
    """

    latents: np.ndarray
    pitch: np.ndarray
    level: np.ndarray

    def __getitem__(self, part: slice) -> Frames:
        return Frames(self.latents[:, part], self.pitch[part], self.level[part])


def bridge(before: Frames | None, after: Frames | None, n_frames: int, frame_rate: float) -> Frames:
    """``n_frames`` frames for a gap.

    Args:
        before: what precedes the gap, of which the last frame counts; None at the beginning of a recording.
        after: what follows it, of which the first frame counts; None while that is not known.
        n_frames: length of the gap, at least 1.
        frame_rate: frames a second.

    Raises:
        ValueError: when neither side is known.
    """
    sides = [frames for frames in (before and before[-1:], after and after[:1]) if frames is not None]
    if not sides:
        raise ValueError("a gap needs a frame on one of its sides")
    left, right = sides[0], sides[-1]
    place = np.arange(1, n_frames + 1, dtype=np.float32)
    weight = place / (n_frames + 1)
    latents = left.latents + weight * (right.latents - left.latents)
    level = left.level + weight * (right.level - left.level)
    near = place if after is None else place[::-1] if before is None else np.minimum(place, place[::-1])
    fall = np.maximum(FALL_DB_PER_SECOND * (near / np.float32(frame_rate) - HELD_SECONDS), 0.0)
    silent = fall >= SILENT_DB - 1e-3
    return Frames(
        latents=np.where(silent, np.float32(0), latents),
        pitch=np.where(silent, UNVOICED, _pitch(left, right, weight)),
        level=np.maximum(np.where(silent, LOWEST_DB, level - fall), LOWEST_DB).astype(np.float32),
    )


def _pitch(left: Frames, right: Frames, weight: np.ndarray) -> np.ndarray:
    """Pitch codes in a straight line between two frames; voicing changes in the middle where theirs differs."""
    low, high = left.pitch, right.pitch
    if (low > UNVOICED) == (high > UNVOICED):
        return np.rint(low + weight * (high - low)).astype(np.int64)
    return np.where(weight <= 0.5, low, high)


def fill_gaps(latents: Tensor, pitch: Tensor, lost: Tensor) -> tuple[Tensor, Tensor]:
    """Bridges over short gaps of whole batches, for training: lost frames become what `bridge` puts in their place.

    Args:
        latents: (B, C, F).
        pitch: (B, F) pitch codes.
        lost: (B, F) bool; items of which nothing is left stay as they are.

    Returns:
        Latents and pitch codes of the same shapes.
    """
    import torch

    lost = lost & ~lost.all(dim=1, keepdim=True)
    n_frames = lost.shape[1]
    place = torch.arange(n_frames, device=lost.device).expand_as(lost)
    before = torch.where(lost, -1, place).cummax(dim=1).values
    after = torch.where(lost, n_frames, place).flip(1).cummin(dim=1).values.flip(1)
    left = torch.where(before < 0, after, before)
    right = torch.where(after == n_frames, before, after)
    weight = (place - left).float() / (right - left).clamp_min(1)
    wide = latents.shape[1]
    ends = [latents.gather(2, end[:, None].expand(-1, wide, -1)) for end in (left, right)]
    filled = torch.lerp(ends[0], ends[1], weight[:, None].to(latents.dtype))
    low, high = pitch.gather(1, left), pitch.gather(1, right)
    between = torch.lerp(low.float(), high.float(), weight).round().to(pitch.dtype)
    alike = (low > UNVOICED) == (high > UNVOICED)
    moved = torch.where(alike, between, torch.where(weight <= 0.5, low, high))
    return torch.where(lost[:, None], filled, latents), torch.where(lost, moved, pitch)
