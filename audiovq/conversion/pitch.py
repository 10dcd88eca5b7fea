"""Fundamental frequency and speech activity of recordings, and moving the coded pitch to a target's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.interfaces import LOWEST_HZ, N_VALUES, STEPS_PER_OCTAVE, UNVOICED, Packet

HOP_SECONDS = 0.01
FLOOR, CEILING = 60.0, 500.0
"""Hz; voices are looked for between these."""
_CANDIDATES = 6
_VOICING = 0.45  # periodicity under which a frame is taken for unvoiced
_SILENCE = 0.03  # of the recording's loudest frame; quieter frames are hardly voiced
_OCTAVE_COST, _JUMP_COST, _TURN_COST = 0.01, 0.35, 0.14
_BLOCK = 2000  # frames at once
_ENOUGH = 8000  # Hz: a rate at which pitch is found as well as at any other
#: Fewer voiced frames than this (0.2 s) give no median.
_FEWEST = 20


def track_pitch(samples: np.ndarray, sample_rate: int = 16000) -> np.ndarray:
    """F0 of every 10 ms in Hz, 0 where there is no voice: (T,) -> (ceil(T / hop),).

    Peaks of the autocorrelation divided by the window's own, joined to a path that avoids jumps and turns between
    voiced and unvoiced (Boersma 1993).
    """
    samples = np.asarray(samples, np.float32)
    n_frames = -(-len(samples) // round(HOP_SECONDS * sample_rate))
    if n_frames == 0:
        return np.zeros(0, np.float32)
    if sample_rate % _ENOUGH == 0 and sample_rate > _ENOUGH:  # half the rate is half the work, and nothing is lost
        step = sample_rate // _ENOUGH
        smooth = np.convolve(samples, np.hanning(2 * step + 1)[1:-1].astype(np.float32) / step, "same")
        samples, sample_rate = smooth[::step], _ENOUGH
    hop, length = round(HOP_SECONDS * sample_rate), round(3 / FLOOR * sample_rate)
    padded = np.pad(samples, (length // 2, length))
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop][:n_frames]
    loudest = float(np.abs(samples).max())
    if loudest == 0:
        return np.zeros(n_frames, np.float32)
    found = [_candidates(frames[i : i + _BLOCK], sample_rate, loudest) for i in range(0, n_frames, _BLOCK)]
    pitches, strengths = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _best_path(pitches, strengths)


def _candidates(frames: np.ndarray, sample_rate: int, loudest: float) -> tuple[np.ndarray, np.ndarray]:
    """(N, length) -> pitches and strengths (N, candidates + 1); the first candidate is 0 Hz, unvoiced."""
    length = frames.shape[1]
    lags = length // 2 + 2
    size = 1 << (length + lags - 1).bit_length()  # so much that no lag wraps around
    window = np.hanning(length + 2)[1:-1].astype(np.float32)
    centred = frames - frames.mean(axis=1, keepdims=True)
    peak = np.abs(centred).max(axis=1)

    def autocorrelation(x: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(x, size)
        return np.fft.irfft(np.square(spectrum.real) + np.square(spectrum.imag), size)[..., :lags]

    own = autocorrelation(window)
    r = autocorrelation(centred * window)
    r = (r / np.maximum(r[:, :1], 1e-12)) / (own / own[0])
    first, last = int(sample_rate / CEILING), min(int(sample_rate / FLOOR), r.shape[1] - 2)
    left, middle, right = r[:, first - 1 : last], r[:, first : last + 1], r[:, first + 1 : last + 2]
    curve = left - 2 * middle + right
    top = (middle > left) & (middle >= right) & (middle > 0.3 * _VOICING)
    offset = np.where(top, 0.5 * (left - right) / np.where(curve < 0, curve, -1), 0)
    height = np.minimum(middle - 0.25 * (left - right) * offset, 1.0)
    pitch = sample_rate / (np.arange(first, last + 1) + offset)
    strength = np.where(top, height - _OCTAVE_COST * np.log2(FLOOR / pitch * (CEILING / FLOOR)), -np.inf)
    best = np.argsort(-strength, axis=1)[:, :_CANDIDATES]
    loudness = peak / loudest
    unvoiced = _VOICING + np.maximum(0, 2 - loudness / _SILENCE * (1 + _VOICING))
    pitches = np.concatenate([np.zeros((len(r), 1)), np.take_along_axis(pitch, best, 1)], axis=1)
    strengths = np.concatenate([unvoiced[:, None], np.take_along_axis(strength, best, 1)], axis=1)
    return pitches, strengths


def _best_path(pitches: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """The pitch of each frame (N,) on the path with the greatest strength less its costs (Viterbi)."""
    voiced = pitches > 0
    octaves = np.log2(np.where(voiced, pitches, 1.0))
    before, after = voiced[:-1, :, None], voiced[1:, None]
    jump = _JUMP_COST * np.abs(octaves[:-1, :, None] - octaves[1:, None])
    costs = np.where(before & after, jump, np.where(before ^ after, _TURN_COST, 0.0))  # (N - 1, from, to)
    score = strengths[0]
    columns = np.arange(len(score))
    back = np.zeros(pitches.shape, np.int64)
    for i, (cost, strength) in enumerate(zip(costs, strengths[1:], strict=True), 1):
        total = score[:, None] - cost
        back[i] = best = total.argmax(axis=0)
        score = total[best, columns] + strength
    path = np.zeros(len(pitches), np.int64)
    path[-1] = int(score.argmax())
    for i in range(len(pitches) - 1, 0, -1):
        path[i - 1] = back[i, path[i]]
    return pitches[np.arange(len(path)), path].astype(np.float32)


def median_pitch(pitch: np.ndarray) -> float | None:
    """Median F0 of the voiced frames in Hz, None where fewer than 0.2 s are voiced."""
    voiced = pitch[pitch > 0]
    return float(np.median(voiced)) if len(voiced) >= _FEWEST else None


#: Where the pitch of a source goes: to the target's median, nowhere, or so many semitones up.
Pitch = float | Literal["auto", "keep"]

ENOUGH_VOICED = 75
"""Voiced frames (1.5 s) after which the source's median is taken as known."""
MOST_SEMITONES = 24.0


def median_hz(tracks: Iterable[np.ndarray]) -> float | None:
    """Median fundamental of pitch codes (F,); None where nothing is voiced."""
    voiced = np.concatenate([np.zeros(0, np.int64), *(track[track > UNVOICED] for track in tracks)])
    if not len(voiced):
        return None
    return float(LOWEST_HZ * 2 ** ((np.median(voiced) - 1) / STEPS_PER_OCTAVE))


def move(track: np.ndarray, semitones: float) -> np.ndarray:
    """Pitch codes (F,) moved by ``semitones``, rounded to steps and kept on the scale; unvoiced frames stay."""
    steps = round(semitones * STEPS_PER_OCTAVE / 12)
    return np.where(track > UNVOICED, np.clip(track + steps, 1, N_VALUES), track)


class PitchMover:
    """Moves the pitch of packets while they pass.

    To go to the target's median the source's has to be known: packets wait until 1.5 s of them are voiced, and the
    interval that is found then holds to the end. All channels are moved alike.

    Args:
        pitch: as `SpeechCodec.convert` takes it.
        target_hz, source_hz: medians; without the target's the pitch stays, with the source's no packet waits.

    Raises:
        AudioVQError: for an interval of more than two octaves.
    """

    def __init__(self, pitch: Pitch, target_hz: float | None, source_hz: float | None = None) -> None:
        if not isinstance(pitch, str) and not abs(pitch) <= MOST_SEMITONES:
            raise AudioVQError(f"pitch can be moved by up to {MOST_SEMITONES:g} semitones, not by {pitch:g}")
        if isinstance(pitch, str) and pitch not in ("auto", "keep"):
            raise AudioVQError(f"pitch is auto, keep or a number of semitones, not {pitch!r}")
        self._target_hz = target_hz
        self._waiting: list[Sequence[Packet]] = []
        #: The interval in semitones; None while it is not known.
        self.semitones: float | None = None
        if pitch == "keep" or (pitch == "auto" and target_hz is None):
            self.semitones = 0.0
        elif pitch != "auto":
            self.semitones = float(pitch)
        elif source_hz is not None:
            self.semitones = self._interval(source_hz)

    def push(self, packets: Sequence[Packet]) -> list[list[Packet]]:
        """The next packet of each channel -> what is ready, moved."""
        self._waiting.append(packets)
        if self.semitones is None:
            tracks = [packet.pitch for row in self._waiting for packet in row]
            if sum(np.count_nonzero(track) for track in tracks) < ENOUGH_VOICED:
                return []
        return self.finish()

    def finish(self) -> list[list[Packet]]:
        """What was waiting, moved."""
        if self.semitones is None:
            tracks = [packet.pitch for row in self._waiting for packet in row]
            self.semitones = self._interval(median_hz(tracks))
        moved = [[self._moved(packet) for packet in row] for row in self._waiting]
        self._waiting = []
        return moved

    def _interval(self, source_hz: float | None) -> float:
        """Semitones from the source's median to the target's; 0 where one is not known."""
        if source_hz is None or self._target_hz is None:
            return 0.0
        return float(np.clip(12 * np.log2(self._target_hz / source_hz), -MOST_SEMITONES, MOST_SEMITONES))

    def _moved(self, packet: Packet) -> Packet:
        return replace(packet, pitch=move(packet.pitch, self.semitones or 0.0))


_FRAME_SECONDS = 0.02
_QUIET_DB, _SILENT_DB = 40.0, -65.0  # below the loudest frames, and below full scale: nothing is heard
# Of what is heard in 10 s of the corpus's main voices .59 to .87 is voiced, and pitch moves by .14 to .30 semitones
# from one frame to the next (medians); in 15 pieces of a game's music one of the two is under these.
_FEWEST_VOICED = 0.4
_STILL_PITCH = 0.09
# Between loud frames and pauses, of what is long enough to have some: of 12 s of a corpus speaker 1 in 200 is under it,
# with noise at 15 dB 9 in 10, with music at 10 dB, whose level varies, every second. At 10 dB either costs a target
# about .1 of its similarity.
_FEWEST_DB, _PAUSES_SECONDS = 22.0, 3.0


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
        return "nothing but silence"
    if len(level) * _FRAME_SECONDS < 1:
        return None
    pitch = track_pitch(samples, sample_rate)
    voiced = pitch > 0
    if voiced.sum() * HOP_SECONDS < _FEWEST_VOICED * len(level) * _FRAME_SECONDS:
        return "hardly any voiced speech, as in noise or music"
    both = voiced[1:] & voiced[:-1]
    steps = 12 * np.abs(np.log2(pitch[1:][both] / pitch[:-1][both]))
    if np.median(steps) < _STILL_PITCH:
        return "a constant pitch, as in music"
    level = frame_levels(samples, sample_rate)
    distance = np.percentile(level, 95) - np.percentile(level, 2)
    if len(level) * _FRAME_SECONDS < _PAUSES_SECONDS or distance >= _FEWEST_DB:
        return None
    return f"noise or music in the background, {distance:.0f} dB below the speech"
