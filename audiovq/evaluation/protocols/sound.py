"""Pauses, voicing and F0 of waveforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from audiovq.evaluation.metrics.f0 import FRAME_SECONDS, track_f0
from audiovq.evaluation.protocol import SAMPLE_RATE

SHORTEST_PAUSE = 0.1
"""Seconds; shorter quiet parts, as a stop's closure, belong to speech."""
QUIET_DB, SILENT_DB = 30.0, -65.0
"""A quiet frame is so far below a recording's loud frames (their 95th percentile), or below full scale."""
PAUSE_EDGES = np.concatenate([[0.1], np.geomspace(0.15, 3.0, 9), [np.inf]])


@dataclass(frozen=True)
class Sound:
    """Pauses, voicing and F0 of a set of waveforms.

    Attributes:
        pause_share: of the time.
        pauses_per_second: number of pauses in a second.
        pause_seconds: length of each pause.
        voiced_share: of the frames outside pauses.
        f0: median F0 in Hz of each waveform with voiced frames.
    """

    pause_share: float
    pauses_per_second: float
    pause_seconds: list[float]
    voiced_share: float
    f0: list[float]

    def to_dict(self) -> dict[str, Any]:
        return {
            "pause_share": self.pause_share,
            "pauses_per_second": self.pauses_per_second,
            "voiced_share": self.voiced_share,
            "pause_seconds_mean": float(np.mean(self.pause_seconds)) if self.pause_seconds else None,
            "f0_median": float(np.median(self.f0)) if self.f0 else None,
            "pause_histogram": self.histogram(),
        }

    def histogram(self) -> list[float]:
        """Shares of pauses by length, between `PAUSE_EDGES`."""
        counts, _ = np.histogram(self.pause_seconds, PAUSE_EDGES)
        return (counts / max(counts.sum(), 1)).tolist()

    def distances(self, other: Sound) -> dict[str, float | None]:
        """To another set."""
        return {
            "pause_seconds": distance(self.pause_seconds, other.pause_seconds),
            "f0_hz": distance(self.f0, other.f0),
            "pause_share": abs(self.pause_share - other.pause_share),
            "voiced_share": abs(self.voiced_share - other.voiced_share),
        }


def describe_sound(waveforms: Sequence[np.ndarray]) -> Sound:
    """Measure waveforms (T,) at 16 kHz."""
    lengths: list[float] = []
    medians = []
    n_frames = n_quiet = n_voiced = n_active = 0
    for samples in waveforms:
        quiet, track = pauses(samples), track_f0(samples)
        lengths += [(stop - start) * FRAME_SECONDS for start, stop in runs_of(quiet)]
        n_frames, n_quiet = n_frames + len(quiet), n_quiet + int(quiet.sum())
        n_voiced, n_active = n_voiced + int((track[~quiet] > 0).sum()), n_active + int((~quiet).sum())
        if (track > 0).any():
            medians.append(float(np.median(track[track > 0])))
    return Sound(
        pause_share=n_quiet / max(n_frames, 1),
        pauses_per_second=len(lengths) / (FRAME_SECONDS * max(n_frames, 1)),
        pause_seconds=lengths,
        voiced_share=n_voiced / max(n_active, 1),
        f0=medians,
    )


def pauses(samples: np.ndarray) -> np.ndarray:
    """Frames of 10 ms that belong to a pause of 0.1 s or more: (T,) -> (ceil(T / 160),) bool."""
    size = round(FRAME_SECONDS * SAMPLE_RATE)
    frames = np.pad(samples.astype(np.float64), (0, -len(samples) % size)).reshape(-1, size)
    level = 10 * np.log10(np.square(frames).mean(1) + 1e-12)
    quiet = level < max(np.percentile(level, 95) - QUIET_DB, SILENT_DB)
    for start, stop in runs_of(quiet):
        if stop - start < round(SHORTEST_PAUSE / FRAME_SECONDS):
            quiet[start:stop] = False
    return quiet


def runs_of(mask: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of each run of true values."""
    steps = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    return list(zip(np.nonzero(steps == 1)[0].tolist(), np.nonzero(steps == -1)[0].tolist(), strict=True))


def distance(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Earth mover's distance of two sets of numbers, in their unit; None where one is empty."""
    return float(wasserstein_distance(first, second)) if len(first) and len(second) else None
