"""Speech activity of a recording: how much of it is audible, and whether it is speech at all."""

from __future__ import annotations

import numpy as np

from audiovq.conversion.pitch import HOP_SECONDS, track_pitch

_FRAME_SECONDS = 0.02
_QUIET_DB, _SILENT_DB = 40.0, -65.0  # below the loudest frames, and below full scale: nothing is heard
# Of what is heard in 10 s of the corpus's main voices .59 to .87 is voiced, and pitch moves by .14 to .30 semitones
# from one frame to the next (medians); in 15 pieces of a game's music one of the two is under these.
_FEWEST_VOICED = 0.4
_STILL_PITCH = 0.09


def frame_levels(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Levels of every 20 ms in dB under full scale, without the offset: (T,) -> (T // 20 ms,)."""
    size = round(_FRAME_SECONDS * sample_rate)
    frames = samples[: len(samples) - len(samples) % size].reshape(-1, size).astype(np.float64)
    return 10 * np.log10(np.mean(np.square(frames - frames.mean(axis=1, keepdims=True)), axis=1) + 1e-12)


def heard_frames(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Levels of those frames that are neither silent nor 40 dB under the loud ones."""
    level = frame_levels(samples, sample_rate)
    if not len(level):
        return level
    return level[level > max(np.percentile(level, 95) - _QUIET_DB, _SILENT_DB)]


def heard_seconds(samples: np.ndarray, sample_rate: int) -> float:
    """Seconds in which something is heard."""
    return len(heard_frames(samples, sample_rate)) * _FRAME_SECONDS


def doubts(samples: np.ndarray, sample_rate: int) -> str | None:
    """Why this is hardly speech, in words; None when it may well be, or is too short to tell."""
    level = heard_frames(samples, sample_rate)
    if not len(level):
        return "nothing to hear"
    if len(level) * _FRAME_SECONDS < 1:
        return None
    pitch = track_pitch(samples, sample_rate)
    voiced = pitch > 0
    if voiced.sum() * HOP_SECONDS < _FEWEST_VOICED * len(level) * _FRAME_SECONDS:
        return "hardly any voice, as in noise or music"
    both = voiced[1:] & voiced[:-1]
    steps = 12 * np.abs(np.log2(pitch[1:][both] / pitch[:-1][both]))
    return "a pitch that holds still, as in music" if np.median(steps) < _STILL_PITCH else None
