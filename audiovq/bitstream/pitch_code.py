"""Entropy code of pitch tracks: fixed integer probabilities of each frame's code given the ones before."""

from __future__ import annotations

from functools import cache

import numpy as np

from audiovq.bitstream.bits import seal, to_words, whole_categorical
from audiovq.pitch_scale import N_VALUES

REACH = 24
"""Steps that the tables reach to either side; what lies further shares their last weights."""
# Fitted by recipes/pitch_tracker/fit_code.py: probabilities in units of 1/4096.
BEGINS = 603
ENDS = 494
# fmt: off
STEPS = [
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 5, 9, 16, 28, 50, 89, 162, 292, 509, 801, 893, 564, 292, 156, 86,
    50, 31, 19, 11, 8, 5, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2,
]
ONSETS = [
    168, 18, 19, 23, 24, 27, 30, 33, 39, 43, 45, 51, 56, 62, 66, 66, 80, 81, 87, 97, 106, 127, 146, 184, 218, 203,
    175, 146, 136, 122, 117, 108, 101, 95, 87, 81, 75, 71, 63, 57, 54, 49, 46, 40, 38, 37, 29, 27, 244,
]
FIRST = [
    1, 8, 92, 603, 716, 683, 1242, 650, 88, 12, 1,
]
# fmt: on
_TOTAL = 1 << 24


def predicted(before: int, last: int) -> int:
    """The code expected after ``before, last``: half of the last step is made again."""
    step = last - before if before and abs(last - before) <= 12 else 0
    return last + (step // 2 if step >= 0 else -(-step // 2))


@cache
def _weights(state: int, centre: int) -> np.ndarray:
    """Weights (N_VALUES + 1,) float32 of the next code, whole numbers for `whole_categorical`.

    Args:
        state: 2 after a voiced frame, 1 after an unvoiced one with a voiced one before it, 0 at the beginning.
        centre: the code that is expected where the frame is voiced.
    """
    voiced_share = 4096 - ENDS if state == 2 else BEGINS
    offsets = np.clip(np.arange(1, N_VALUES + 1) - centre, -REACH, REACH) + REACH
    if state == 0:
        shape = np.array(FIRST, np.int64)[np.arange(N_VALUES) // 16]
    else:
        shape = np.array(STEPS if state == 2 else ONSETS, np.int64)[offsets]
    room = _TOTAL - (N_VALUES + 1)
    voiced = shape * (room * voiced_share // 4096) // shape.sum()
    return np.concatenate([[room - voiced.sum()], voiced]).astype(np.float32)


class _Context:
    """What the codes so far say of the next one."""

    def __init__(self) -> None:
        self.state, self.before, self.last = 0, 0, 0

    def weights(self) -> np.ndarray:
        centre = predicted(self.before, self.last) if self.state == 2 else self.last
        return _weights(self.state, min(max(centre, 1), N_VALUES) if self.state else 0)

    def update(self, code: int) -> None:
        if code:
            self.before = self.last if self.state == 2 else 0
            self.state, self.last = 2, code
        elif self.state:
            self.state = 1


def encode_pitch(tracks: np.ndarray) -> bytes:
    """Tracks (R, F) of pitch codes -> bytes; each is coded on its own."""
    from constriction import stream

    rows = []
    for track in tracks:
        context = _Context()
        for code in track.tolist():
            rows.append(context.weights())
            context.update(code)
    encoder = stream.queue.RangeEncoder()
    encoder.encode(np.ascontiguousarray(tracks.reshape(-1), np.int32), whole_categorical(), np.stack(rows))
    return seal(encoder)


def decode_pitch(data: bytes, n_tracks: int, n_frames: int) -> np.ndarray | None:
    """Inverse of `encode_pitch` -> (R, F) int64; None where the bytes are no tracks."""
    from constriction import stream

    decoder, family = stream.queue.RangeDecoder(to_words(data)), whole_categorical()
    tracks = np.zeros((n_tracks, n_frames), np.int64)
    try:
        for track in tracks:
            context = _Context()
            for i in range(n_frames):
                track[i] = int(decoder.decode(family, context.weights()[None])[0])
                context.update(int(track[i]))
    except AssertionError:  # what the library raises where no symbol fits
        return None
    return tracks


def pitch_bits(track: np.ndarray) -> float:
    """Ideal length of a track (F,) in bits."""
    context, bits = _Context(), 0.0
    for code in track.tolist():
        bits -= float(np.log2((context.weights()[code] + 1) / _TOTAL))
        context.update(code)
    return bits
