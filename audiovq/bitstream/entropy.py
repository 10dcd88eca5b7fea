"""Entropy coding of rows of codes and of speaker vectors: the entropy model's probabilities and a range coder.

Each packet is coded on its own: the model starts anew with it and knows nothing of the packets before.
"""

from __future__ import annotations

from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from audiovq.bitstream.bits import seal, to_words, whole_categorical
from audiovq.bitstream.entropy_model import PRECISION, EntropyModel, load_entropy_model, weights_of
from audiovq.interfaces import Codec

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
