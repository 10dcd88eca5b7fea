"""Frames in the place of those that were lost with their packets.

The speech on either side of a gap is carried on, and faded out where the gap is long. Pitch and level go in a straight
line from the last frame before it to the first behind it, as far as that has arrived; else the last frame is held.
(Holding and fading as in ITU-T G.711, appendix I; here on the decoder's input rather than on samples, so that the
decoder itself joins both ends.) Latents are predicted from several frames on either side where the model knows how
(`LatentPredictor`), else they go in a straight line, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiovq.codec.signal import LOWEST_DB
from audiovq.hub import read_companion
from audiovq.interfaces import UNVOICED

if TYPE_CHECKING:
    from torch import Tensor

HELD_SECONDS = 0.08
"""Time from the nearest frame that has arrived over which speech is carried on at full level."""
FALL_DB_PER_SECOND = 625.0
"""Fall of the level beyond that: silent from 0.16 s on."""
SILENT_DB = 50.0
"""Frames that fell by so much become silence."""


FILE_NAME = "concealment.safetensors"
FORM = "concealment 2"  # kind and version of the file
CONTEXT = 6
"""Frames on each side of a gap, at most, by which those in it are predicted."""
REACH = 16
"""Frames from one side over which it says anything of a lost frame."""


@dataclass(frozen=True)
class LatentPredictor:
    """A small network that predicts lost latents, each by itself, from those before and behind the gap.

    It sees the principal components of up to `CONTEXT` latents on either side, and how far away they are; what it
    predicts is close to the mean of all latents that could stand there. ``recipes/speech/concealment.py`` trains it.

    Attributes:
        mean: (C,) of the latents.
        basis: (C, R), the directions that are predicted; the others are at their mean. Columns are orthogonal, as long
            as the standard deviation along them.
        layers: weights (out, in) and biases (out,), with SiLU between them.
    """

    mean: np.ndarray
    basis: np.ndarray
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def __call__(self, before: np.ndarray | None, after: np.ndarray | None, n_frames: int) -> np.ndarray:
        """Latents (C, n_frames) float32 between ``before`` (C, N) and ``after`` (C, M), of which one may be None.

        Frames further away from both than `REACH` are at the mean.
        """
        filled = np.repeat(self.mean[:, None], n_frames, axis=1)
        place = np.arange(1, n_frames + 1)
        from_before = np.zeros_like(place) if before is None else place
        from_after = np.zeros_like(place) if after is None else place[::-1]
        near = np.flatnonzero(_within(from_before) | _within(from_after))
        left = None if before is None else self.reduce(before[:, -CONTEXT:])
        right = None if after is None else self.reduce(after[:, :CONTEXT])
        x = inputs_of(left, right, from_before[near], from_after[near], self.basis.shape[1])
        for weight, bias in self.layers[:-1]:
            x = x @ weight.T + bias
            x = x * (0.5 + 0.5 * np.tanh(0.5 * x))
        weight, bias = self.layers[-1]
        filled[:, near] += self.basis @ (x @ weight.T + bias).T
        return filled

    def reduce(self, latents: np.ndarray) -> np.ndarray:
        """Latents (C, F) -> coordinates (F, R) of unit variance."""
        return (latents - self.mean[:, None]).T @ (self.basis / np.square(self.basis).sum(axis=0))

    def save(self, folder: str | Path, model_hash: bytes) -> Path:
        """Write the file, in 16 bits, into the folder of the model whose latents they are."""
        from audiovq.tensor_files import write_companion

        tensors = {"mean": self.mean, "basis": self.basis}
        for i, (weight, bias) in enumerate(self.layers):
            tensors |= {f"layers.{i}.weight": weight, f"layers.{i}.bias": bias}
        half = {name: np.ascontiguousarray(tensor, np.float16) for name, tensor in tensors.items()}
        write_companion(Path(folder) / FILE_NAME, half, FORM, model_hash)
        return Path(folder) / FILE_NAME

    @classmethod
    def load(cls, folder: str | Path, model_hash: bytes) -> LatentPredictor | None:
        """That of a model's folder; None when there is none, or when it is of other weights.

        Raises:
            AudioVQError: for a damaged file.
        """

        def build(tensors: dict[str, np.ndarray]) -> LatentPredictor:
            values = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
            names = [f"layers.{i}" for i in range(sum(name.endswith(".weight") for name in values))]
            layers = tuple((values[f"{name}.weight"], values[f"{name}.bias"]) for name in names)
            found = cls(values["mean"], values["basis"], layers)
            n_channels, n_directions = found.basis.shape
            sizes = [2 * CONTEXT * (n_directions + 1) + 2 * REACH, *(len(bias) for _, bias in layers)]
            shapes = [weight.shape for weight, _ in layers]
            is_whole = shapes == list(zip(sizes[1:], sizes, strict=False)) and sizes[-1] == n_directions
            if found.mean.shape != (n_channels,) or not is_whole:
                raise ValueError("its tensors do not fit each other")
            return found

        return read_companion(Path(folder) / FILE_NAME, FORM, model_hash, build)


def inputs_of(
    before: np.ndarray | None, after: np.ndarray | None, from_before: np.ndarray, from_after: np.ndarray, n: int
) -> np.ndarray:
    """Inputs (N, 2 * CONTEXT * (n + 1) + 2 * REACH) of the network for N lost frames of one gap.

    Args:
        before, after: coordinates (F, n) on either side of the gap, or None.
        from_before, from_after: (N,) frames from the nearest of these; 0 where there is none.
    """
    sides = np.zeros((2, CONTEXT, n + 1), np.float32)  # the nearest frame first; the last value says that there is one
    if before is not None:
        nearest = before[: -CONTEXT - 1 : -1]
        sides[0, : len(nearest), :n], sides[0, : len(nearest), n] = nearest, 1
    if after is not None:
        nearest = after[:CONTEXT]
        sides[1, : len(nearest), :n], sides[1, : len(nearest), n] = nearest, 1
    rows = np.repeat(sides[None], len(from_before), axis=0)
    far = np.stack([from_before, from_after], axis=1)  # (N, 2)
    rows *= _within(far)[..., None, None]
    places = far[..., None] == np.arange(1, REACH + 1)
    return np.concatenate([rows.reshape(len(rows), -1), places.reshape(len(rows), -1)], axis=1).astype(np.float32)


def _within(distance: np.ndarray) -> np.ndarray:
    return (distance > 0) & (distance <= REACH)


@dataclass(frozen=True)
class Frames:
    """Input of the decoder for some frames."""

    latents: np.ndarray  # (C, F)
    pitch: np.ndarray  # (F,) pitch codes
    level: np.ndarray  # (F,) dB

    def __getitem__(self, part: slice) -> Frames:
        return Frames(self.latents[:, part], self.pitch[part], self.level[part])


def bridge(
    before: Frames | None,
    after: Frames | None,
    n_frames: int,
    frame_rate: float,
    predictor: LatentPredictor | None = None,
) -> Frames:
    """``n_frames`` frames, at least 1, for a gap after the last frame of ``before`` and up to the first of ``after``.

    One of the two may be None: at the beginning of a recording, and while it is not known what follows. Without a
    ``predictor`` latents go in a straight line.
    """
    sides = [frames for frames in (before and before[-1:], after and after[:1]) if frames is not None]
    if not sides:
        raise ValueError("a gap needs a frame on one of its sides")
    left, right = sides[0], sides[-1]
    place = np.arange(1, n_frames + 1, dtype=np.float32)
    weight = place / (n_frames + 1)
    if predictor is None:
        latents = left.latents + weight * (right.latents - left.latents)
    else:
        known = [None if side is None else side.latents for side in (before, after)]
        latents = predictor(known[0], known[1], n_frames)
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


def fill_gaps(
    latents: Tensor, pitch: Tensor, lost: Tensor, predictor: LatentPredictor | None = None
) -> tuple[Tensor, Tensor]:
    """Bridges over short gaps, for training: lost frames (B, F) become what `bridge` puts in their place.

    Latents are (B, C, F), pitch codes (B, F). Items of which nothing is left stay as they are. Predicted latents have
    no gradient.
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
    if predictor is not None:
        for item in lost.any(1).nonzero()[:, 0].tolist():
            filled[item] = torch.from_numpy(_predict_gaps(predictor, latents[item], lost[item])).to(filled)
    low, high = pitch.gather(1, left), pitch.gather(1, right)
    between = torch.lerp(low.float(), high.float(), weight).round().to(pitch.dtype)
    alike = (low > UNVOICED) == (high > UNVOICED)
    moved = torch.where(alike, between, torch.where(weight <= 0.5, low, high))
    return torch.where(lost[:, None], filled, latents), torch.where(lost, moved, pitch)


def _predict_gaps(predictor: LatentPredictor, latents: Tensor, lost: Tensor) -> np.ndarray:
    """Latents (C, F) of an item with predictions where they are lost (F,)."""
    values, is_lost = latents.detach().float().cpu().numpy().copy(), lost.cpu().numpy()
    borders = [0, *(np.flatnonzero(np.diff(is_lost)) + 1), len(is_lost)]  # of stretches that are lost or not
    for i, (start, end) in enumerate(pairwise(borders)):
        if is_lost[start]:
            before = values[:, borders[i - 1] : start] if start else None
            after = values[:, end : borders[i + 2]] if end < len(is_lost) else None
            values[:, start:end] = predictor(before, after, end - start)
    return values
