"""The metrics by name, and those that compare two signals: of speech, and PSNR and SSIM of images and videos."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from audiovq.errors import AudioVQError, need
from audiovq.evaluation.pretrained import (
    DNSMOS,
    DifferentialWordErrorRate,
    DistillMOS,
    PhoneErrorRate,
    SpeakerCosine,
    WordErrorRate,
)
from audiovq.evaluation.protocol import SAMPLE_RATE, Metric, Pair, Score

log = logging.getLogger(__name__)

LOWEST_PESQ = 1.04
"""The lowest MOS-LQO of P.862.2's mapping (for a raw score of -0.5)."""
N_FFT = 1024
MEL_FLOOR = 1e-5
"""About the magnitude that rounding to 16 bits leaves in a mel band."""
POWER_FLOOR = 1e-10
HIGHEST_PSNR = 80.0
"""Cap in dB: images without any error would make a mean infinite."""


class PESQ(Metric):
    """PESQ-WB as MOS-LQO, 1.04 to 4.64 (ITU-T P.862 with P.862.2), by the package `pesq`.

    It aligns both sides itself. Designed for telephone codecs, it rates changed phases harshly.
    """

    name, label, higher_is_better, decimals = "pesq", "PESQ-WB", True, 2

    def __init__(self) -> None:
        self._pesq = need("pesq", "PESQ")

    def score(self, pair: Pair) -> Score | None:
        """None for a reference without speech, or of less than PESQ's quarter of a second."""
        value = self._rate(pair.reference, pair.degraded)
        if value is None:  # was there no speech, or did coding lose it?
            value = None if self._rate(pair.reference, pair.reference) is None else LOWEST_PESQ
        return None if value is None else Score(value)

    def _rate(self, reference: np.ndarray, degraded: np.ndarray) -> float | None:
        if not np.any(reference) or not np.any(degraded):
            return None
        try:
            value = float(self._pesq.pesq(SAMPLE_RATE, reference, degraded, "wb"))
        except (self._pesq.NoUtterancesError, self._pesq.BufferTooShortError):
            return None
        return value if np.isfinite(value) else None


class STOI(Metric):
    """STOI, about 0 to 1 (Taal, Hendriks, Heusdens, Jensen, 2011), by the package `pystoi`.

    It compares envelopes over 384 ms without searching for a delay: both sides must be aligned.
    """

    name, label, higher_is_better, decimals = "stoi", "STOI", True, 3

    def __init__(self) -> None:
        self._stoi = need("pystoi", "STOI").stoi

    def score(self, pair: Pair) -> Score | None:
        """None where less than 384 ms of the reference is speech."""
        if not np.any(pair.reference):
            return None
        with warnings.catch_warnings():
            # pystoi warns and then returns 1e-5, which would lower a mean as if it were a score.
            warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
            try:
                return Score(float(self._stoi(pair.reference, pair.degraded, SAMPLE_RATE)))
            except (RuntimeWarning, ValueError, np.exceptions.AxisError):
                return None


def log_mel(samples: np.ndarray) -> np.ndarray:
    """(T,) at 16 kHz -> (80, frames): natural logarithm of the mel magnitude spectrogram, floored at 1e-5.

    Centred Hann windows of 1,024 samples every 256; 80 Slaney bands of unit area from 0 to 8 kHz.
    """
    import librosa

    padded = np.pad(samples, (0, max(0, N_FFT - len(samples))))
    magnitudes = librosa.feature.melspectrogram(
        y=padded, sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=256, n_mels=80, power=1.0
    )
    return np.log(np.maximum(magnitudes, MEL_FLOOR))


class MelDistance(Metric):
    """Mean absolute difference of `log_mel` over bands and frames, in nepers: 0 is equal, 0.115 is one decibel."""

    name, label, higher_is_better, decimals = "mel", "mel L1", False, 3

    def score(self, pair: Pair) -> Score:
        return Score(float(np.mean(np.abs(log_mel(pair.reference) - log_mel(pair.degraded)))))


class LevelDifference(Metric):
    """RMS level of the degraded side relative to the reference, in dB."""

    name, label, higher_is_better, decimals = "level", "level dB", None, 1

    def score(self, pair: Pair) -> Score | None:
        """None for a silent reference."""
        if not np.any(pair.reference):
            return None
        power = [np.mean(np.square(x, dtype=np.float64)) + POWER_FLOOR for x in (pair.degraded, pair.reference)]
        return Score(float(10 * np.log10(power[0] / power[1])))


def psnr(pixels: Tensor, truth: Tensor, highest: float = HIGHEST_PSNR) -> Tensor:
    """Peak signal-to-noise ratio in dB, capped: (B, ...) in [0, 1] -> (B,).

    Raises:
        AudioVQError: when torchmetrics is not installed.
    """
    ratio = need("torchmetrics.functional.image", "PSNR").peak_signal_noise_ratio
    dims = tuple(range(1, pixels.ndim))
    return ratio(pixels, truth, data_range=1.0, reduction="none", dim=dims).clamp_max(highest)


def ssim(pixels: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): (B, C, H, W) in [0, 1] -> (B,).

    Raises:
        AudioVQError: when torchmetrics is not installed.
    """
    similarity = need("torchmetrics.functional.image", "SSIM").structural_similarity_index_measure
    return similarity(pixels, truth, data_range=1.0, reduction="none").view(len(pixels), -1).mean(1)


FRAME_SECONDS = 0.01
FLOOR, CEILING = 60.0, 500.0
"""Range of the search in Hz."""
FEWEST_FOR_MEDIAN, FEWEST_FOR_CORRELATION = 20, 30
"""Voiced frames, of 10 ms, below which a figure means nothing."""
_HOP = round(FRAME_SECONDS * SAMPLE_RATE)
# Praat's window is three periods of the floor and its frames are centred in the recording: with this much silence at
# either end, frame i is centred on sample 160 i. The half hop guards against rounding.
_PADDING = round(1.5 / FLOOR * SAMPLE_RATE) + _HOP // 4


def track_f0(samples: np.ndarray) -> np.ndarray:
    """F0 in Hz every 10 ms, 0 where unvoiced: (T,) at 16 kHz -> (ceil(T / 160),).

    By autocorrelation (Boersma 1993), in Praat's own implementation with its default thresholds.

    Raises:
        AudioVQError: when the package praat-parselmouth is not installed.
    """
    parselmouth = need("parselmouth", "F0")
    n_frames = -(-len(samples) // _HOP)
    if not np.any(samples):
        return np.zeros(n_frames)
    padded = np.zeros((n_frames - 1) * _HOP + 2 * _PADDING)
    padded[_PADDING : _PADDING + len(samples)] = samples[: len(padded) - _PADDING]
    sound = parselmouth.Sound(padded, SAMPLE_RATE)
    return sound.to_pitch_ac(FRAME_SECONDS, FLOOR, pitch_ceiling=CEILING).selected_array["frequency"]


def median_f0(track: np.ndarray) -> float | None:
    """Median of a track's voiced frames in Hz; None where fewer than 0.2 s are voiced."""
    voiced = track[track > 0]
    return float(np.median(voiced)) if len(voiced) >= FEWEST_FOR_MEDIAN else None


def median_distance(track: np.ndarray, hz: float | None) -> float | None:
    """Semitones between a track's median and ``hz``; None where either has too few voiced frames."""
    median = median_f0(track)
    return None if median is None or hz is None else float(abs(12 * np.log2(median / hz)))


def f0_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Pearson's correlation of log F0 over the frames voiced in both tracks (N,).

    None where these are under 0.3 s, or one side is constant.
    """
    n = min(len(first), len(second))
    both = (first[:n] > 0) & (second[:n] > 0)
    if both.sum() < FEWEST_FOR_CORRELATION:
        return None
    a, b = np.log(first[:n][both]), np.log(second[:n][both])
    if a.std() < 1e-6 or b.std() < 1e-6:
        return None
    return float(np.corrcoef(a, b)[0, 1])


class F0Error(Metric):
    """Mean absolute difference of F0 in semitones, over the frames voiced on both sides."""

    name, label, higher_is_better, decimals = "f0", "F0 error st", False, 2

    def __init__(self) -> None:
        need("parselmouth", "F0")

    def score(self, pair: Pair) -> Score | None:
        """None without a frame voiced on both sides; weighs by such frames."""
        reference, degraded = track_f0(pair.reference), track_f0(pair.degraded)
        both = (reference > 0) & (degraded > 0)
        if not both.any():
            return None
        return Score(float(np.abs(12 * np.log2(degraded[both] / reference[both])).mean()), int(both.sum()))


class VoicingError(F0Error):
    """Share of frames, in percent, that are voiced on one side only."""

    name, label, decimals = "voicing", "voicing error %", 1

    def score(self, pair: Pair) -> Score | None:
        """None for a reference without a voiced frame; weighs by frames."""
        reference, degraded = track_f0(pair.reference), track_f0(pair.degraded)
        if not reference.any():
            return None
        return Score(float(100 * ((reference > 0) != (degraded > 0)).mean()), len(reference))


_COLUMNS: tuple[type[Metric], ...] = (
    *(PESQ, STOI, SpeakerCosine, MelDistance, LevelDifference, DNSMOS, DistillMOS),
    *(WordErrorRate, DifferentialWordErrorRate, PhoneErrorRate, F0Error, VoicingError),
)
METRICS = {metric.name: metric for metric in _COLUMNS}
"""The metrics in the order of a report's columns."""
DEFAULT = ("pesq", "stoi", "speaker", "mel", "level", "dnsmos", "distillmos", "wer", "phones")
"""Metrics of a codec."""
OPTIONAL = ("distillmos", "phones")
"""Metrics that are left out with a warning, not an error, where their package is missing and nobody named them."""


def make_metrics(names: Sequence[str] | None = None, default: Sequence[str] = DEFAULT) -> list[Metric]:
    """The named metrics; None: those of ``default``.

    Raises:
        AudioVQError: for an unknown name, or a package that is not installed.
    """
    unknown = [name for name in names or [] if name not in METRICS]
    if unknown:
        raise AudioVQError(f"no metric {unknown[0]!r}: there are {', '.join(METRICS)}")
    metrics = []
    for name in dict.fromkeys(default if names is None else names):
        try:
            metrics.append(METRICS[name]())
        except AudioVQError as error:
            if names is not None or name not in OPTIONAL:
                raise
            log.warning("%s is left out: %s", name, error)
    return metrics


def describe(metrics: Sequence[Metric]) -> dict[str, dict[str, object]]:
    """Label and direction of each metric, for a report."""
    return {metric.name: {"label": metric.label, "higher_is_better": metric.higher_is_better} for metric in metrics}
