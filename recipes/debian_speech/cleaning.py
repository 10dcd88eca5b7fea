"""Measures of a recording that say whether it is speech, how wide its band is, and where the speech begins and ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from audiovq.data.utterance import SAMPLE_RATE

HOP = SAMPLE_RATE // 100  # 10 ms
WINDOW = 2 * HOP


@dataclass(frozen=True, slots=True)
class Measures:
    """Level, bandwidth, voicing and extent of the speech in a recording.

    Attributes:
        start, stop: samples between which there is sound, with the margin.
        active: seconds of frames with sound.
        level_db: RMS of those frames, in dB under full scale.
        snr_db: that level over the quietest tenth of the frames.
        high_db: energy density of 4.3-6 kHz relative to 2-3.6 kHz, in dB: speech recorded at 8 kHz and converted up
            has next to nothing there.
        voiced: the part of the active frames that is periodic in the range of the human voice.
    """

    start: int
    stop: int
    active: float
    level_db: float
    snr_db: float
    high_db: float
    voiced: float


def _frames(samples: np.ndarray, length: int, hop: int) -> np.ndarray:
    if len(samples) < length:
        samples = np.pad(samples, (0, length - len(samples)))
    return np.lib.stride_tricks.sliding_window_view(samples, length)[::hop]


def _power_db(frames: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.mean(np.square(frames, dtype=np.float64), axis=1) + 1e-12)


def measure(samples: np.ndarray, margin: float = 0.1) -> Measures:
    """Measure a recording: float samples (T,) at 16 kHz. ``margin`` seconds are left at both ends of the sound."""
    samples = samples - np.float32(samples.mean()) if len(samples) else samples
    level = _power_db(_frames(samples, WINDOW, HOP))
    loud, floor = float(np.percentile(level, 95)), float(np.percentile(level, 10))
    # 35 dB under the loud parts, but over a noisy recording's floor; never so high that quiet syllables go.
    threshold = max(min(max(loud - 35, floor + 6), loud - 20), -60.0)
    active = level > threshold
    # What stands alone for less than 30 ms is a click.
    solid = np.convolve(active, np.ones(3), "same") >= 2
    places = np.flatnonzero(active & solid)
    if not len(places):
        return Measures(0, 0, 0.0, loud, 0.0, -99.0, 0.0)
    edge = round(margin * SAMPLE_RATE)
    start = max(int(places[0]) * HOP - edge, 0)
    stop = min(int(places[-1]) * HOP + WINDOW + edge, len(samples))
    active_db = 10 * np.log10(np.mean(10 ** (level[active] / 10)))
    return Measures(
        start=start,
        stop=stop,
        active=float(active.sum()) * HOP / SAMPLE_RATE,
        level_db=float(active_db),
        snr_db=float(active_db - floor),
        high_db=_high_band(samples, active),
        voiced=_voiced(samples, active),
    )


def _high_band(samples: np.ndarray, active: np.ndarray) -> float:
    frames = _frames(samples, 512, HOP)
    frames = frames[active[: len(frames)]] if active[: len(frames)].any() else frames
    spectrum = np.mean(np.abs(np.fft.rfft(frames[:3000] * np.hanning(512).astype(np.float32), axis=1)) ** 2, axis=0)
    frequency = np.fft.rfftfreq(512, 1 / SAMPLE_RATE)
    high = spectrum[(frequency > 4300) & (frequency < 6000)].mean()
    middle = spectrum[(frequency > 2000) & (frequency < 3600)].mean()
    return float(10 * np.log10((high + 1e-15) / (middle + 1e-15)))


def _voiced(samples: np.ndarray, active: np.ndarray) -> float:
    """The part of active frames (40 ms) whose autocorrelation peaks over 0.5 between 60 and 500 Hz."""
    length = SAMPLE_RATE // 25
    frames = _frames(samples, length, HOP)
    frames = frames[active[: len(frames)]][:1000:2]
    if not len(frames):
        return 0.0
    frames = frames - frames.mean(axis=1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(frames, 2 * length, axis=1)) ** 2
    correlation = np.fft.irfft(spectrum, axis=1)[:, :length]
    lags = np.arange(length)
    correlation = correlation / (correlation[:, :1] + 1e-9) / (1 - lags / length)  # against fewer terms at long lags
    return float(np.mean(correlation[:, SAMPLE_RATE // 500 : SAMPLE_RATE // 60].max(axis=1) > 0.5))
