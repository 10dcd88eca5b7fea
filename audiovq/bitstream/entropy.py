"""Rows of numbers as bits: packed at any width, or entropy-coded by a model's probabilities and a range coder.

Each packet is coded on its own: the model starts anew with it and knows nothing of the packets before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from audiovq.bitstream.entropy_model import PRECISION, EntropyModel, Predictor, load_entropy_model
from audiovq.interfaces import Codec

#: Nine groups of seven bits: every value below 2**63.
MAX_VARINT_BYTES = 9


def encode_varint(value: int) -> bytes:
    """A non-negative integer below 2**63, seven bits a byte, low groups first, the high bit set on all but the last."""
    if not 0 <= value < 1 << (7 * MAX_VARINT_BYTES):
        raise ValueError(f"{value} does not fit a varint")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes | bytearray, position: int = 0) -> tuple[int, int] | None:
    """The value at ``position`` and the position behind it; None where the data ends inside it.

    Raises:
        ValueError: for more than `MAX_VARINT_BYTES` bytes, or for a longer spelling than needed (every value has one).
    """
    value = 0
    for i in range(MAX_VARINT_BYTES):
        if position + i >= len(data):
            return None
        byte = data[position + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if byte == 0 and i:
                raise ValueError("varint is longer than needed")
            return value, position + i + 1
    raise ValueError("varint is too long")


def decode_varints(data: bytes | bytearray, count: int | None = None) -> tuple[list[int], int] | None:
    """``count`` values (None: all) from the beginning, and the position behind them; None where one is bad."""
    values: list[int] = []
    position = 0
    while len(values) < count if count is not None else position < len(data):
        try:
            found = decode_varint(data, position)
        except ValueError:
            found = None
        if found is None:
            return None
        values.append(found[0])
        position = found[1]
    return values, position


def pack_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Values in ``[0, 2**bits)`` -> an array of their bits (0 or 1, uint8), most significant first, ``len * bits``."""
    flat = np.asarray(values).reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >= 1 << bits):
        raise ValueError(f"values do not fit {bits} bits")
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint32)
    return ((flat.astype(np.uint32)[:, None] >> shifts) & 1).astype(np.uint8).reshape(-1)


def unpack_bits(stream: np.ndarray, bits: int) -> np.ndarray:
    """Inverse of `pack_bits`: an array of bits -> values, int64."""
    weights = 1 << np.arange(bits - 1, -1, -1, dtype=np.int64)
    return stream.reshape(-1, bits).astype(np.int64) @ weights


def to_bytes(*streams: np.ndarray) -> bytes:
    """Arrays of bits, one after the other, as bytes; the last byte is filled up with zeros."""
    return np.packbits(np.concatenate(streams)).tobytes() if streams else b""


def from_bytes(data: bytes) -> np.ndarray:
    """Bytes -> an array of their bits, most significant first."""
    return np.unpackbits(np.frombuffer(data, np.uint8))


def pack_rows(rows: np.ndarray, bits: int, encode: Callable[..., bytes] | None = None, *known: np.ndarray) -> bytes:
    """Rows (C, ...) of values of ``bits`` bits -> bytes; by ``encode`` where that is shorter.

    ``encode`` gets the rows that are stored, and those of ``known`` (C, ...) that belong to them.
    """
    same = np.array([np.array_equal(rows[i], rows[i - 1]) for i in range(1, len(rows))], np.uint8)
    channels = np.flatnonzero(np.concatenate([[True], same == 0]))
    stored = rows[channels]
    packed = to_bytes(same, *(pack_bits(row, bits) for row in stored))
    if encode is not None:
        coded = to_bytes(same) + encode(stored, *(each[channels] for each in known))
        if len(coded) < len(packed):
            return coded
    return packed


def rows_are_coded(data: bytes, n_rows: int, row_size: int, bits: int) -> bool:
    """Whether ``data`` is shorter than its rows of ``row_size`` values would be if they were bit-packed."""
    same = from_bytes(data[: (n_rows + 6) // 8])[: n_rows - 1]
    return len(data) < -(-(n_rows - 1 + (n_rows - int(same.sum())) * row_size * bits) // 8)


def unpack_rows(
    data: bytes,
    n_rows: int,
    shape: tuple[int, ...],
    bits: int,
    decode: Callable[..., np.ndarray | None] | None = None,
    *known: np.ndarray,
) -> np.ndarray | None:
    """Inverse of `pack_rows` -> (n_rows, *shape) int64; None when the size is wrong or filling bits are not zero.

    ``decode`` gets bytes, the number and ``shape`` of stored rows, and what is ``known`` of them.
    """
    stream = from_bytes(data)
    if len(stream) < n_rows - 1:
        return None
    same = stream[: n_rows - 1].astype(bool)
    channels, each = np.flatnonzero(np.concatenate([[True], ~same])), int(np.prod(shape)) * bits
    used = n_rows - 1 + len(channels) * each
    if decode is not None and len(data) < -(-used // 8):
        begin = (n_rows + 6) // 8
        filled = stream[n_rows - 1 : 8 * begin].any()
        some = [each[channels] for each in known]
        values = None if filled or len(data) == begin else decode(data[begin:], len(channels), *shape, *some)
    elif len(data) != -(-used // 8) or stream[used:].any():
        values = None
    else:
        values = unpack_bits(stream[n_rows - 1 : used], bits).reshape(-1, *shape)
    if values is None:
        return None
    return values[np.cumsum(~np.concatenate([[False], same])) - 1]


def whole_categorical() -> Any:
    """constriction's categorical models, for weights that are whole numbers and sum to 2**24 less their number.

    It gives every symbol its weight and one, in units of 2**-24: the sums stay exact in float32 and are not rescaled.
    """
    from constriction import stream

    return stream.model.Categorical(perfect=False)


def seal(encoder: Any) -> bytes:
    """What a ``RangeEncoder`` holds, as the shortest string of bytes that decodes to it; zeros are read behind its end.

    The words are written most significant byte first, so that the string is a binary fraction. Every fraction in the
    encoder's last interval decodes to the same symbols; the library gives one in whole words, this the shortest one.
    """
    words = encoder.get_compressed()
    n_words, (low, width) = encoder.pos()
    # The state's 64 bits stand behind n_words words. It is known without its carries, the library's choice with them.
    n_bytes = 4 * n_words + 8
    chosen = int.from_bytes(words.astype(">u4").tobytes().ljust(n_bytes, b"\0"), "big")
    begin = chosen - ((chosen - low) & (1 << 64) - 1)
    for n_cut in range(8, -1, -1):
        value = -(-begin >> 8 * n_cut)  # rounded up to a string that ends so many bytes earlier
        if value << 8 * n_cut < begin + width:
            return value.to_bytes(n_bytes - n_cut, "big").rstrip(b"\0") or b"\0"
    raise AssertionError("an interval holds its own begin")


def to_words(data: bytes) -> np.ndarray:
    """Bytes as the words constriction reads, with zeros behind their end."""
    return np.frombuffer(data + bytes(-len(data) % 4 + 8), ">u4").astype(np.uint32)


WITHOUT_KERNELS = {"encode": 12_000, "decode": 6_000}
"""Codes that are coded before the compiled kernels are loaded, which takes as long as they then save."""


@cache
def kernels() -> Any:
    """The module of the compiled kernels; None where numba is not installed."""
    try:
        return import_module("audiovq.bitstream.entropy_kernels")
    except ModuleNotFoundError as error:
        if error.name not in ("numba", "llvmlite"):
            raise
        return None


class EntropyCoder:
    """Codes rows by an `EntropyModel`: bytes there, the same rows back.

    Rows of codes are (R, K, F) int64 with K up to the model's codebooks, rows of speakers (R, S) int64. The model
    also knows which frames are voiced, (R, F) uint8, before it sees a code; None: none of them.
    """

    def __init__(self, model: EntropyModel) -> None:
        self.model = model
        self._n_codes = {"encode": 0, "decode": 0}

    def load_kernels(self) -> None:
        """Load the compiled kernels now: later they would hold up speech that is being decoded as it arrives."""
        if kernels() is not None:
            self._n_codes = dict.fromkeys(WITHOUT_KERNELS, max(WITHOUT_KERNELS.values()))
            row = np.zeros((1, 1, 1), np.int64)
            self.decode_codes(self.encode_codes(row), 1, 1, 1)

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self.model.network)

    def _kernels(self, verb: str, n_codes: int) -> Any:
        """The compiled kernels, once there was enough to do; None before, and where numba is not installed."""
        self._n_codes[verb] += n_codes
        return kernels() if self._n_codes[verb] > WITHOUT_KERNELS[verb] else None

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
        rows = np.zeros((n_rows, n_books, n_frames), np.int64)
        known = _voicing(voiced, n_rows, n_frames)
        compiled = self._kernels("decode", rows.size)
        if compiled is None:
            read = self._predictor.decode_rows(known, data, rows)
        else:
            network = self.model.network
            memory = compiled.make_memory(network, n_frames)
            read = compiled.decode_rows(network, memory, known, np.frombuffer(data, np.uint8), rows)
        return rows if len(data) <= read else None

    def bits(self, row: np.ndarray, voiced: np.ndarray | None = None) -> float:
        """Ideal length, without the coder's rounding, of a row of codes (K, F) whose frames are voiced (F,) or not."""
        (voicing,) = _voicing(None if voiced is None else voiced[None], 1, row.shape[1])
        weights = self._weights(row, voicing)
        chosen = weights[np.arange(row.size), row.T.reshape(-1)]
        return float((PRECISION - np.log2(chosen.astype(np.float64) + 1)).sum())

    def _weights(self, row: np.ndarray, voicing: np.ndarray) -> np.ndarray:
        """Weights (F * K, V) float32 of each code of a row (K, F); the kernels do it faster once they are loaded."""
        network, compiled = self.model.network, self._kernels("encode", row.size)
        if compiled is None:
            return self._predictor.weights(voicing, row)
        weights = np.empty((row.size, self.model.codebook_size), np.float32)
        memory = compiled.make_memory(network, row.shape[1])
        compiled.distributions(network, memory, voicing, np.ascontiguousarray(row, np.int64), weights)
        return weights

    def encode_speakers(self, rows: np.ndarray) -> bytes:
        """Rows (R, S), R at least 1 -> bytes."""
        from constriction import stream

        encoder, family = stream.queue.RangeEncoder(), whole_categorical()
        weights = self.model.speaker.astype(np.float32)
        for row in rows:
            encoder.encode(np.ascontiguousarray(row, np.int32), family, weights)
        return seal(encoder)

    def decode_speakers(self, data: bytes, n_rows: int, _: int | None = None) -> np.ndarray | None:
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
