"""Frames in the place of those that were lost with their packets.

The speech on either side of a gap is carried on, and faded out where the gap is long. Pitch and level go in a straight
line from the last frame before it to the first behind it, as far as that has arrived; else the last frame is held.
(Holding and fading as in ITU-T G.711, appendix I; here on the decoder's input rather than on samples, so that the
decoder itself joins both ends.) Latents are predicted from several frames on either side where the model knows how
(`LatentPredictor`), else they go in a straight line, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
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
FORM = "concealment 1"  # kind and version of the file
CONTEXT = 6
"""Frames on each side of a gap, at most, by which those in it are predicted."""
MOST_WEIGHTS = 32
"""Shapes of gaps whose solutions are kept, at most; up to 1.6 MB each."""
_RIDGE = 1e-2  # added to the variance of every direction, as a share of their mean


@dataclass(frozen=True)
class LatentPredictor:
    """Linear prediction of lost latents from those before and behind them (Wiener 1949).

    Latents are taken for a stationary process, of which only some directions can be predicted: the others are at their
    mean. So the errors' mean square is the least that a linear function reaches, about two thirds of a straight line's.
    """

    mean: np.ndarray  # (C,) float32
    basis: np.ndarray  # (C, R) float32, orthonormal: the directions that are predicted
    covariances: np.ndarray  # (L, R, R) float32: of direction i now (row) and direction j so many frames later (column)
    _weights: dict[tuple[int, int, int], np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, before: np.ndarray | None, after: np.ndarray | None, n_frames: int) -> np.ndarray:
        """Latents (C, n_frames) float32 between ``before`` (C, N) and ``after`` (C, M), of which one may be None.

        Frames further away from both than the longest lag are at the mean.
        """
        reach = len(self.covariances)
        if n_frames > 2 * reach:
            unknown = np.repeat(self.mean[:, None], n_frames - reach, axis=1)
            first = unknown[:, :reach] if before is None else self(before, None, reach)
            last = unknown[:, :reach] if after is None else self(None, after, reach)
            return np.concatenate([first, unknown[:, reach:], last], axis=1)
        sides = [None if before is None else before[:, -CONTEXT:], None if after is None else after[:, :CONTEXT]]
        sizes = tuple(0 if side is None else side.shape[1] for side in sides)
        known = np.concatenate([side for side in sides if side is not None], axis=1) - self.mean[:, None]
        key = (sizes[0], n_frames, sizes[1])
        if key not in self._weights:
            if len(self._weights) >= MOST_WEIGHTS:
                self._weights.clear()
            self._weights[key] = self._solve(*key)
        predicted = self._weights[key] @ (self.basis.T @ known).T.ravel()
        return (self.basis @ predicted.reshape(n_frames, -1).T + self.mean[:, None]).astype(np.float32)

    def _solve(self, n_before: int, n_frames: int, n_after: int) -> np.ndarray:
        """The map (n_frames * R, (n_before + n_after) * R) from known coordinates to lost ones, both frame by frame."""
        gap = np.arange(n_before, n_before + n_frames)
        known = np.r_[np.arange(n_before), gap[-1] + 1 + np.arange(n_after)]
        among, to_gap = self._blocks(known, known), self._blocks(gap, known)
        ridge = _RIDGE * np.trace(self.covariances[0]) / self.basis.shape[1] * np.eye(len(among))
        return np.linalg.solve(among + ridge, to_gap.T).T.astype(np.float32)

    def _blocks(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Covariances of the coordinates of frames ``rows`` and ``columns``, frame by frame; 0 beyond the last lag."""
        both = np.concatenate([self.covariances[:0:-1].transpose(0, 2, 1), self.covariances, 0 * self.covariances[:1]])
        lag = columns[None] - rows[:, None]
        place = np.where(np.abs(lag) < len(self.covariances), lag + len(self.covariances) - 1, len(both) - 1)
        n_directions = self.basis.shape[1]
        blocks = both[place].astype(np.float64).transpose(0, 2, 1, 3)
        return blocks.reshape(len(rows) * n_directions, len(columns) * n_directions)

    @classmethod
    def fit(cls, latents: Iterable[np.ndarray], n_directions: int = 32, n_lags: int = 16) -> LatentPredictor:
        """From recordings (C, F), each shorter than the lags or longer.

        The directions are those with the largest variances in predictions of three frames from six.
        """
        pieces = list(latents)
        mean = np.concatenate(pieces, axis=1).mean(axis=1, dtype=np.float64)
        sums, counts = np.zeros((n_lags, len(mean), len(mean))), np.zeros(n_lags)
        for piece in pieces:
            centred = piece - mean[:, None].astype(np.float32)
            for lag in range(min(n_lags, piece.shape[1])):
                sums[lag] += centred[:, : piece.shape[1] - lag] @ centred[:, lag:].T
                counts[lag] += piece.shape[1] - lag
        covariances = sums / np.maximum(counts, 1)[:, None, None]
        whole = cls(mean, np.eye(len(mean)), covariances)
        gap, known = np.arange(3, 6), np.r_[:3, 6:9]
        predicted = (whole._solve(3, 3, 3) @ whole._blocks(gap, known).T).reshape(3, len(mean), 3, len(mean))
        _, directions = np.linalg.eigh(sum(predicted[i, :, i] for i in range(3)))
        basis = directions[:, ::-1][:, :n_directions]
        reduced = np.einsum("ci,lcd,dj->lij", basis, covariances, basis, optimize=True)
        return cls(mean.astype(np.float32), basis.astype(np.float32), reduced.astype(np.float32))

    def save(self, folder: str | Path, model_hash: bytes) -> Path:
        """Write the file into the folder of the model whose latents they are."""
        from audiovq.tensor_files import write_companion

        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in ("mean", "basis", "covariances")}
        write_companion(Path(folder) / FILE_NAME, tensors, FORM, model_hash)
        return Path(folder) / FILE_NAME

    @classmethod
    def load(cls, folder: str | Path, model_hash: bytes) -> LatentPredictor | None:
        """That of a model's folder; None when there is none, or when it is of other weights.

        Raises:
            AudioVQError: for a damaged file.
        """

        def build(tensors: dict[str, np.ndarray]) -> LatentPredictor:
            found = cls(tensors["mean"], tensors["basis"], tensors["covariances"])
            (n_channels, n_directions), (n_lags, *block) = found.basis.shape, found.covariances.shape
            if found.mean.shape != (n_channels,) or block != [n_directions] * 2 or n_lags < 1:
                raise ValueError("its tensors do not fit each other")
            return found

        return read_companion(Path(folder) / FILE_NAME, FORM, model_hash, build)


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
