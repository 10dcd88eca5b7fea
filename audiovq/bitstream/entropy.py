"""Entropy coding of rows of codes, of speaker vectors and of pitch tracks.

Codes and speaker vectors have the entropy model's probabilities, pitch tracks fixed ones, and all go through a range
coder. Each packet is coded on its own: the model starts anew with it and knows nothing of the packets before.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from audiovq.bitstream.bits import seal, to_words, whole_categorical
from audiovq.bitstream.entropy_model import PRECISION, EntropyModel, load_entropy_model, weights_of
from audiovq.interfaces import N_VALUES, Codec

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


WITHOUT_KERNELS = 16
"""Rows that are coded before the compiled kernels are loaded, which takes as long as they then save."""


class EntropyCoder:
    """Codes rows by an `EntropyModel`: bytes there, the same rows back.

    Rows of codes are (R, K, F) int64 with K up to the model's codebooks, rows of speakers (R, S) int64. The model
    also knows which frames are voiced, (R, F) uint8, before it sees a code; None: none of them.
    """

    def __init__(self, model: EntropyModel) -> None:
        self.model = model
        self._n_coded = 0  # rows

    def warm_up(self) -> None:
        """Load the kernels that decode now (or compile them, once an installation), not with the first packet."""
        row = np.zeros((1, 1, 1), np.int64)
        self.decode_codes(self.encode_codes(row), 1, 1, 1)

    def can_code(self, n_codebooks: int, code_bits: int, speaker_size: int, speaker_bits: int) -> bool:
        """Whether the model has probabilities for such rows."""
        model = self.model
        return (
            n_codebooks <= model.n_codebooks
            and 1 << code_bits == model.codebook_size
            and model.speaker.shape == (speaker_size, 1 << speaker_bits)
        )

    def encode_codes(self, rows: np.ndarray, voiced: np.ndarray | None = None) -> bytes:
        """Rows (R, K, F), R at least 1, and their voicing -> bytes."""
        from constriction import stream

        known = _voicing(voiced, len(rows), rows.shape[2])
        encoder, family = stream.queue.RangeEncoder(), whole_categorical()
        for row, voicing in zip(rows, known, strict=True):
            encoder.encode(np.ascontiguousarray(row.T, np.int32).reshape(-1), family, self._weights(row, voicing))
        return seal(encoder)

    def decode_codes(
        self, data: bytes, n_rows: int, n_books: int, n_frames: int, voiced: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Inverse of `encode_codes` -> (R, K, F) int64; None where the bytes are not such rows."""
        from audiovq.bitstream.entropy_kernels import decode_rows, make_memory

        rows = np.zeros((n_rows, n_books, n_frames), np.int64)
        memory = make_memory(self.model.network, n_frames)
        known = _voicing(voiced, n_rows, n_frames)
        read = decode_rows(self.model.network, memory, known, np.frombuffer(data, np.uint8), rows)
        return rows if len(data) <= read else None

    def bits(self, row: np.ndarray, voiced: np.ndarray | None = None) -> float:
        """Ideal length, without the coder's rounding, of a row of codes (K, F) whose frames are voiced (F,) or not."""
        (voicing,) = _voicing(None if voiced is None else voiced[None], 1, row.shape[1])
        weights = self._weights(row, voicing)
        chosen = weights[np.arange(row.size), row.T.reshape(-1)]
        return float((PRECISION - np.log2(chosen.astype(np.float64) + 1)).sum())

    def _weights(self, row: np.ndarray, voicing: np.ndarray) -> np.ndarray:
        """Weights (F * K, V) float32 of each code of a row (K, F); the kernels do it faster once they are loaded."""
        self._n_coded += 1
        if self._n_coded <= WITHOUT_KERNELS:
            return weights_of(self.model.network, voicing, row)
        from audiovq.bitstream.entropy_kernels import distributions, make_memory

        weights = np.empty((row.size, self.model.codebook_size), np.float32)
        memory = make_memory(self.model.network, row.shape[1])
        distributions(self.model.network, memory, voicing, np.ascontiguousarray(row, np.int64), weights)
        return weights

    def encode_speakers(self, rows: np.ndarray) -> bytes:
        """Rows (R, S), R at least 1 -> bytes."""
        from constriction import stream

        encoder, family = stream.queue.RangeEncoder(), whole_categorical()
        weights = self.model.speaker.astype(np.float32)
        for row in rows:
            encoder.encode(np.ascontiguousarray(row, np.int32), family, weights)
        return seal(encoder)

    def decode_speakers(self, data: bytes, n_rows: int) -> np.ndarray | None:
        """Inverse of `encode_speakers` -> (R, S) int64; None where the bytes are not such rows."""
        from constriction import stream

        decoder, family = stream.queue.RangeDecoder(to_words(data)), whole_categorical()
        weights = self.model.speaker.astype(np.float32)
        try:
            rows = [decoder.decode(family, weights) for _ in range(n_rows)]
        except AssertionError:  # what the library raises where no symbol fits
            return None
        return np.stack(rows).astype(np.int64)


def _voicing(voiced: np.ndarray | None, n_rows: int, n_frames: int) -> np.ndarray:
    """Voicing (R, F) uint8 as the kernels read it."""
    return np.zeros((n_rows, n_frames), np.uint8) if voiced is None else np.ascontiguousarray(voiced, np.uint8)


#: The coder of each codec.
coders_of: WeakKeyDictionary[Codec, EntropyCoder | None] = WeakKeyDictionary()


def coder_for(codec: Codec) -> EntropyCoder | None:
    """The coder of a model's codes; None when the model has no entropy model. Made once for each codec.

    Raises:
        AudioVQError: for a damaged entropy model.
    """
    if codec not in coders_of:
        coders_of[codec] = None if codec.folder is None else coder_in(codec.folder, codec.model_hash)
    return coders_of[codec]


def coder_in(folder: str | Path, model_hash: bytes) -> EntropyCoder | None:
    """The coder in the folder of the model with this hash; None when there is none for it."""
    model = load_entropy_model(folder, model_hash)
    return None if model is None else EntropyCoder(model)
