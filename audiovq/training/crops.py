"""Crops of packed corpora for training the speech codec, and augmentations of whole batches, on any device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.codec.signal import TARGET_DB, frame_levels
from audiovq.data.packed import FRAME, PackedCorpus
from audiovq.devices import to_device


class SpectralAugmentation(nn.Module):
    """Changes of timbre and recording that keep words, timing and pitch.

    Formants are scaled by warping the smooth part of each spectrum (its low quefrencies), while the harmonics stay
    where they are, and a smooth random equalisation is added (after Choi et al. 2021, NANSY, section 3.1, without its
    change of pitch). The same draw is applied to several stretches of one speaker: together they are a new speaker.

    Args:
        formant: largest factor of the formants, in either direction.
        eq_db: standard deviation of the equalisation at its eight points.
        n_fft: samples of a window; the hop is a quarter.
        quefrency: samples of the cepstrum that count as smooth.
    """

    window: Tensor

    def __init__(self, formant: float = 1.22, eq_db: float = 4.0, n_fft: int = 512, quefrency: int = 32) -> None:
        super().__init__()
        self.formant, self.eq_db, self.n_fft, self.quefrency = formant, eq_db, n_fft, quefrency
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Formant factors (n,) and equalisation in dB (n, 8)."""
        factor = torch.exp(math.log(self.formant) * (2 * torch.rand(n, device=device) - 1))
        return factor, self.eq_db * torch.randn(n, 8, device=device)

    def forward(self, waveform: Tensor, factor: Tensor, eq: Tensor) -> Tensor:
        """Waveforms (B, T), with a draw for each -> (B, T) of the same energy."""
        spectrum = torch.stft(waveform, self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)
        bins = spectrum.shape[1]
        log_size = torch.log(spectrum.abs() + 1e-5)
        cepstrum = torch.fft.irfft(log_size, dim=1)
        keep = torch.zeros(self.n_fft, device=waveform.device)
        keep[: self.quefrency] = 1.0
        keep[-self.quefrency + 1 :] = 1.0
        envelope = torch.fft.rfft(cepstrum * keep[:, None], dim=1).real  # (B, bins, frames)
        place = (torch.arange(bins, device=waveform.device) / factor[:, None]).clamp(max=bins - 1.001)
        low = place.floor().long()
        weight = (place - low)[..., None]
        index = low[..., None].expand(-1, -1, envelope.shape[2])
        warped = envelope.gather(1, index) * (1 - weight) + envelope.gather(1, index + 1) * weight
        curve = F.interpolate(eq[:, None], size=bins, mode="linear", align_corners=True)[:, 0]
        gain = (warped - envelope).clamp(-3.5, 3.5) + curve[..., None] * (math.log(10) / 20)
        changed = self.inverse(spectrum * torch.exp(gain), waveform.shape[-1])
        energy = waveform.square().sum(-1, keepdim=True) / changed.square().sum(-1, keepdim=True).clamp_min(1e-8)
        return changed * energy.sqrt()

    def inverse(self, spectrum: Tensor, length: int) -> Tensor:
        """``torch.istft``; elsewhere than on a CPU without its check of the window, for which the host would wait."""
        if spectrum.device.type == "cpu":
            return torch.istft(spectrum, self.n_fft, self.n_fft // 4, window=self.window, length=length)
        return self.overlap_add(spectrum, length)

    def overlap_add(self, spectrum: Tensor, length: int) -> Tensor:
        """Spectra (B, bins, frames) -> (B, length)."""
        hop = self.n_fft // 4
        frames = torch.fft.irfft(spectrum.transpose(1, 2), n=self.n_fft) * self.window
        pieces = frames.view(len(frames), -1, 4, hop)
        n_frames = pieces.shape[1]
        total, weight = pieces.new_zeros(len(frames), n_frames + 3, hop), pieces.new_zeros(n_frames + 3, hop)
        squares = self.window.square().view(4, hop)
        for i in range(4):
            total[:, i : i + n_frames] += pieces[:, :, i]
            weight[i : i + n_frames] += squares[i]
        begin = self.n_fft // 2
        return total.flatten(1)[:, begin : begin + length] / weight.flatten()[begin : begin + length]


def degrade(waveform: Tensor, others: Tensor, snr_db: Tensor, cutoff: Tensor) -> Tensor:
    """A worse recording of the same: coloured noise or other speakers behind, and a narrower band.

    Args:
        waveform: (B, T).
        others: (B, T) other recordings; the louder their share in the noise, the more it is babble.
        snr_db: (B,) signal-to-noise ratio.
        cutoff: (B,) Hz from which a low-pass falls off; 8000 and above does nothing.
    """
    n, length = waveform.shape
    slope = torch.rand(n, 1, device=waveform.device) * 1.5
    bins = length // 2 + 1
    frequency = torch.linspace(0, 8000, bins, device=waveform.device)
    noise = torch.fft.rfft(torch.randn_like(waveform)) * (100 / (100 + frequency)) ** slope
    noise = torch.fft.irfft(noise, n=length)
    noise = noise / noise.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8)
    babble = others / others.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-4)
    share = (torch.rand(n, 1, device=waveform.device) < 0.3).float()
    noise = noise * (1 - share) + babble * share
    size = waveform.square().mean(-1, keepdim=True).sqrt() * 10 ** (-snr_db[:, None] / 20)
    spectrum = torch.fft.rfft(waveform + noise * size)
    low_pass = torch.sigmoid((cutoff[:, None] - frequency) / 150)
    low_pass = torch.where(cutoff[:, None] >= 8000, torch.ones_like(low_pass), low_pass)
    return torch.fft.irfft(spectrum * low_pass, n=length)


SPEEDS = (0.9, 1.2)
"""Factors by which speech is played slower or faster, as another speaker's. Slower speech has a narrower band."""
MARGIN_FRAMES = 2
"""Frames on either side of a stretch whose speed is changed: transforms take it for periodic."""


def change_speed(waveform: Tensor, n_samples: int) -> Tensor:
    """(B, T) -> (B, n_samples): the same played faster or slower, by band-limited interpolation of a period."""
    length = waveform.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(waveform), n=n_samples) * (n_samples / length)


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
        speaker: (B,) numbers of the sources' speakers in the corpus; -1 where the source has another vocal tract.
    """

    source: Tensor
    target: Tensor
    source_other: Tensor
    target_other: Tensor
    converted: Tensor
    teacher: Tensor | None = None
    speaker: Tensor | None = None


class CropSampler:
    """Draws batches from a packed corpus; everything is decided by the random generator that is given.

    Args:
        corpus: packed, on the device where batches are wanted.
        crop_frames, other_frames: lengths of crops and of stretches for the speaker encoder.
        synthetic_share: share of the items from synthetic speakers.
        pair_share: of the synthetic items, those that are converted between aligned recordings.
        formant_share: of the real items, those whose source has another vocal tract, to be converted back.
        speed_share: of the items that are not converted between recordings, those that are played at another speed,
            with all stretches of their speaker: further speakers, of whom no teacher knows anything.
        degraded_share: of all unconverted items, those whose source is a worse recording.
        converted_up_to: most codebooks of an item that is converted: more of them hold the source's voice, which no
            decoder can take out again.
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
        speed_share: float = 0.0,
        degraded_share: float = 0.15,
        converted_up_to: int = 2,
        language_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.corpus, self.crop_frames, self.other_frames = corpus, crop_frames, other_frames
        self.pair_share, self.formant_share, self.degraded_share = pair_share, formant_share, degraded_share
        self.speed_share, self.converted_up_to = speed_share, converted_up_to
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

    def draw(
        self, n: int, rng: np.random.Generator, augmented: bool = True, n_codebooks: np.ndarray | None = None
    ) -> Batch:
        """Draw ``n`` items; not ``augmented``: recordings as they are, to be decoded as they are.

        ``n_codebooks`` (n,) will code them, see ``converted_up_to``; None: any of them may be converted.
        """
        crop, other = self.crop_frames, self.other_frames
        is_synthetic = rng.random(n) < self.synthetic_share
        speaker = np.where(is_synthetic, self._speakers(self.synthetic, n, rng), self._speakers(self.real, n, rng))
        start = self._place(speaker, crop, rng)
        target_speaker, target_start = speaker.copy(), start.copy()
        few = np.full(n, augmented) if n_codebooks is None else (n_codebooks <= self.converted_up_to) & augmented
        paired = is_synthetic & (rng.random(n) < self.pair_share) & bool(self.groups) & few
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
        converted, warped, played = paired.copy(), np.zeros(n, bool), np.zeros(n, bool)
        if augmented and self.speed_share:
            played = ~paired & (rng.random(n) < self.speed_share)
            for i in np.flatnonzero(played):
                speed = float(np.exp(rng.uniform(*np.log(SPEEDS))))
                source[i] = target[i] = self._played(speaker[i : i + 1], crop, speed, rng)
                source_other[i] = target_other[i] = self._played(speaker[i : i + 1], other, speed, rng)
        if augmented:
            warped = ~is_synthetic & (rng.random(n) < self.formant_share) & few
            self._warp(source, source_other, warped)
            converted |= warped
        teacher = self.corpus.rows("teacher", start, crop).float() if self.corpus.teacher is not None else None
        if teacher is not None and played.any():
            teacher[to_device(np.flatnonzero(played), teacher.device)] = 0.0  # of other places
        fall = to_device(np.minimum(rng.exponential(6.0, (n, 1)), LOUDEST_FALL_DB).astype(np.float32), source.device)
        source, target = self.normalise(source, fall), self.normalise(target, fall)
        if augmented:
            worse = ~converted & (rng.random(n) < self.degraded_share)
            self._degrade(source, worse, rng)
        known = to_device(np.where(warped | played, -1, speaker), source.device)
        return Batch(source, target, source_other, target_other, torch.from_numpy(converted), teacher, known)

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

    def _played(self, speaker: np.ndarray, frames: int, speed: float, rng: np.random.Generator) -> Tensor:
        """A stretch (frames * FRAME,) of one speaker's recordings, played at a speed."""
        wide = frames + 2 * MARGIN_FRAMES
        n_read = -(-round(wide * speed * FRAME) // FRAME)
        read = self.corpus.crops(self._place(speaker, n_read, rng), n_read)[:, : round(wide * speed * FRAME)]
        return change_speed(read, wide * FRAME)[0, MARGIN_FRAMES * FRAME : (wide - MARGIN_FRAMES) * FRAME]

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
