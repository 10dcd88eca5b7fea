"""Crops of packed corpora for training the speech codec: pairs of speakers, other vocal tracts, poor recordings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from audiovq.codec.signal import TARGET_DB, frame_levels
from audiovq.data.packed import FRAME, PackedCorpus
from audiovq.devices import to_device
from audiovq.training.augment import SpectralAugmentation, degrade

LOUDEST_FALL_DB = 30.0
"""Crops are brought to at most so much below the level of a packet's loudest frame."""


@dataclass
class Batch:
    """Recordings to code, and what should come out.

    Attributes:
        source, target: (B, T) waveforms; they differ where a voice is converted or a poor recording cleaned.
        source_other, target_other: (B, T') other stretches of the two speakers.
        converted: (B,) bool on the host, items whose target has another voice, and so another phase.
        teacher: (B, F, D) features of the source by a recogniser, or None.
    """

    source: Tensor
    target: Tensor
    source_other: Tensor
    target_other: Tensor
    converted: Tensor
    teacher: Tensor | None = None


class CropSampler:
    """Draws batches from a packed corpus; everything is decided by the random generator that is given.

    Args:
        corpus: packed, on the device where batches are wanted.
        crop_frames, other_frames: lengths of crops and of stretches for the speaker encoder.
        synthetic_share: share of the items from synthetic speakers.
        pair_share: of the synthetic items, those that are converted between aligned recordings.
        formant_share: of the real items, those whose source has another vocal tract, to be converted back.
        degraded_share: of all unconverted items, those whose source is a worse recording.
        language_weights: how many times as likely speakers of a language are drawn.
    """

    def __init__(
        self,
        corpus: PackedCorpus,
        crop_frames: int,
        other_frames: int,
        synthetic_share: float = 0.4,
        pair_share: float = 0.7,
        formant_share: float = 0.35,
        degraded_share: float = 0.15,
        language_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.corpus, self.crop_frames, self.other_frames = corpus, crop_frames, other_frames
        self.pair_share, self.formant_share, self.degraded_share = pair_share, formant_share, degraded_share
        synthetic = corpus.synthetic()
        weights = np.diff(corpus.spans, axis=1)[:, 0].astype(np.float64) ** 0.7
        if language_weights:
            by_speaker = dict(zip(corpus.speaker.tolist(), corpus.languages, strict=True))
            weights *= [language_weights.get(by_speaker[s], 1.0) for s in range(len(weights))]
        self.real = np.where(synthetic, 0.0, weights)
        self.synthetic = np.where(synthetic, weights, 0.0)
        self.synthetic_share = synthetic_share if synthetic.any() else 0.0
        long_enough = (corpus.group >= 0) & (corpus.frames >= crop_frames)
        members: dict[int, list[int]] = {}
        for index in np.flatnonzero(long_enough):
            members.setdefault(int(corpus.group[index]), []).append(int(index))
        self.groups = [group for group in members.values() if len(group) > 1]
        self.augment = SpectralAugmentation().to(corpus.samples.device)
        self.last = len(corpus.samples) // FRAME

    def draw(self, n: int, rng: np.random.Generator, augmented: bool = True) -> Batch:
        """``n`` items. ``augmented=False``: recordings as they are, to be decoded as they are."""
        crop, other = self.crop_frames, self.other_frames
        is_synthetic = rng.random(n) < self.synthetic_share
        speaker = np.where(is_synthetic, self._speakers(self.synthetic, n, rng), self._speakers(self.real, n, rng))
        start = self._place(speaker, crop, rng)
        target_speaker, target_start = speaker.copy(), start.copy()
        paired = is_synthetic & (rng.random(n) < self.pair_share) & bool(self.groups) & augmented
        for i in np.flatnonzero(paired):
            a, b = rng.choice(self.groups[rng.integers(len(self.groups))], 2, replace=False)
            offset = rng.integers(self.corpus.frames[a] - crop + 1)
            start[i], target_start[i] = self.corpus.start[a] + offset, self.corpus.start[b] + offset
            speaker[i], target_speaker[i] = self.corpus.speaker[a], self.corpus.speaker[b]
        source, target = self.corpus.crops(start, crop), self.corpus.crops(target_start, crop)
        target_other = self.corpus.crops(self._place(target_speaker, other, rng), other)
        source_other = target_other.clone()
        if paired.any():
            pairs = to_device(np.flatnonzero(paired), source.device)
            source_other[pairs] = self.corpus.crops(self._place(speaker[paired], other, rng), other)
        converted = paired.copy()
        if augmented:
            warped = ~is_synthetic & (rng.random(n) < self.formant_share)
            self._warp(source, source_other, warped)
            converted |= warped
        teacher = self.corpus.rows("teacher", start, crop).float() if self.corpus.teacher is not None else None
        fall = to_device(np.minimum(rng.exponential(6.0, (n, 1)), LOUDEST_FALL_DB).astype(np.float32), source.device)
        source, target = self.normalise(source, fall), self.normalise(target, fall)
        if augmented:
            worse = ~converted & (rng.random(n) < self.degraded_share)
            self._degrade(source, worse, rng)
        return Batch(source, target, source_other, target_other, torch.from_numpy(converted), teacher)

    @staticmethod
    def normalise(waveform: Tensor, fall: Tensor) -> Tensor:
        """Bring the loudest frame of each item (B, T) to ``fall`` (B, 1) dB below the nominal level."""
        loudest = frame_levels(waveform, FRAME).amax(1, keepdim=True).clamp_min(-60.0)
        return waveform * 10 ** ((TARGET_DB - loudest - fall) / 20)

    def _speakers(self, weights: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        if not weights.any():
            return np.zeros(n, np.int64)
        return rng.choice(len(weights), n, p=weights / weights.sum())

    def _place(self, speaker: np.ndarray, frames: int, rng: np.random.Generator) -> np.ndarray:
        """First frames (B,) of stretches within the speakers' recordings end to end."""
        first, end = self.corpus.spans[speaker].T
        room = np.maximum(end - first - frames, 0) + 1
        return np.minimum(first + (rng.random(len(speaker)) * room).astype(np.int64), self.last - frames)

    def _warp(self, source: Tensor, other: Tensor, warped: np.ndarray) -> None:
        """Give some sources and their speakers' stretches another vocal tract, in place."""
        items = to_device(np.flatnonzero(warped), source.device)
        if len(items):
            draw = self.augment.draw(len(items), source.device)
            source[items] = self.augment(source[items], *draw)
            other[items] = self.augment(other[items], *draw)

    def _degrade(self, source: Tensor, worse: np.ndarray, rng: np.random.Generator) -> None:
        items = to_device(np.flatnonzero(worse), source.device)
        if len(items):
            snr = to_device(rng.uniform(8, 35, len(items)).astype(np.float32), source.device)
            cutoff = np.where(rng.random(len(items)) < 0.3, rng.uniform(3500, 7000, len(items)), 8000.0)
            babble = source.roll(1, 0)[items]
            source[items] = degrade(source[items], babble, snr, to_device(cutoff.astype(np.float32), source.device))
