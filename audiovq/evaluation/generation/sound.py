"""How samples sound beside real speech: pauses, voicing, register, predicted opinion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from audiovq.evaluation.pair import SAMPLE_RATE
from audiovq.speech.pitch import track_pitch

FRAME_SECONDS = 0.01
SHORTEST_PAUSE = 0.1
"""Seconds; what is quiet for less is part of speech (a stop's closure)."""
QUIET_DB, SILENT_DB = 30.0, -65.0
"""Quiet is so far below a recording's loud frames (their 95th percentile), or below full scale."""
PAUSE_EDGES = np.concatenate([[0.1], np.geomspace(0.15, 3.0, 9), [np.inf]])


@dataclass(frozen=True)
class Sound:
    """Of a set of waveforms.

    Attributes:
        pause_share: of the time.
        pauses_per_second: how many begin.
        pause_seconds: of each pause.
        voiced_share: of the frames that are no pause.
        register: median F0 of each waveform in Hz, where it has voiced speech.
    """

    pause_share: float
    pauses_per_second: float
    pause_seconds: list[float]
    voiced_share: float
    register: list[float]

    def to_dict(self) -> dict[str, object]:
        found = asdict(self)
        found["pause_seconds_mean"] = float(np.mean(self.pause_seconds)) if self.pause_seconds else None
        found["register_median"] = float(np.median(self.register)) if self.register else None
        found["pause_histogram"] = self.histogram()
        return {name: value for name, value in found.items() if name not in ("pause_seconds", "register")}

    def histogram(self) -> list[float]:
        """Shares of pauses by length, between `PAUSE_EDGES`."""
        counts, _ = np.histogram(self.pause_seconds, PAUSE_EDGES)
        return (counts / max(counts.sum(), 1)).tolist()


def pauses(samples: np.ndarray) -> np.ndarray:
    """Which frames of 10 ms belong to a pause of 0.1 s or more: (T,) -> (ceil(T / 160),) bool."""
    size = round(FRAME_SECONDS * SAMPLE_RATE)
    frames = np.pad(samples.astype(np.float64), (0, -len(samples) % size)).reshape(-1, size)
    level = 10 * np.log10(np.square(frames).mean(1) + 1e-12)
    quiet = level < max(np.percentile(level, 95) - QUIET_DB, SILENT_DB)
    for start, stop in stretches(quiet):
        if stop - start < round(SHORTEST_PAUSE / FRAME_SECONDS):
            quiet[start:stop] = False
    return quiet


def stretches(mask: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of each run of true values."""
    steps = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    return list(zip(np.nonzero(steps == 1)[0].tolist(), np.nonzero(steps == -1)[0].tolist(), strict=True))


def describe_sound(waveforms: Sequence[np.ndarray]) -> Sound:
    """Measure waveforms (T,) at 16 kHz."""
    lengths: list[float] = []
    registers = []
    n_frames = n_quiet = n_voiced = n_active = 0
    for samples in waveforms:
        quiet = pauses(samples)
        lengths += [(stop - start) * FRAME_SECONDS for start, stop in stretches(quiet)]
        pitch = track_pitch(samples, SAMPLE_RATE)[: len(quiet)]
        active = ~quiet[: len(pitch)]
        n_frames, n_quiet = n_frames + len(quiet), n_quiet + int(quiet.sum())
        n_voiced, n_active = n_voiced + int((pitch[active] > 0).sum()), n_active + int(active.sum())
        if (pitch > 0).any():
            registers.append(float(np.median(pitch[pitch > 0])))
    seconds = max(n_frames * FRAME_SECONDS, FRAME_SECONDS)
    return Sound(
        pause_share=n_quiet / max(n_frames, 1),
        pauses_per_second=len(lengths) / seconds,
        pause_seconds=lengths,
        voiced_share=n_voiced / max(n_active, 1),
        register=registers,
    )


def distance(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Earth mover's distance of two sets of numbers, in their unit; None where one is empty."""
    if not len(first) or not len(second):
        return None
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(first, second))
