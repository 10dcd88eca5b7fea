"""Moving coded pitch: by an interval, or from one speaker's median to another's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.interfaces import Packet
from audiovq.pitch_scale import LOWEST_HZ, N_VALUES, STEPS_PER_OCTAVE, UNVOICED

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
        target_hz: the target's median; None where it is not known, which leaves the pitch where it is.
        source_hz: the source's median, where it is known beforehand: no packet waits then.

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
