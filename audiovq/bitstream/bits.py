"""Numbers as bits: variable-length integers and arrays of values of a few bits each."""

from __future__ import annotations

import numpy as np

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
