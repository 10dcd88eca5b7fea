"""Rows of small numbers as bytes, one row for each channel: speaker vectors and the codes of a packet.

First there is a bit for each row but the first: whether it equals the row before. The other rows follow, bit-packed
behind these bits, or entropy-coded from the next whole byte on. The length tells which: coded rows are always shorter
than packed ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from audiovq.bitstream.bits import from_bytes, pack_bits, to_bytes, unpack_bits

#: Rows (R, ...) and the numbers (R,) of their channels -> bytes.
Encode = Callable[[np.ndarray, np.ndarray], bytes]
#: Bytes and the numbers (R,) of channels -> their rows (R, ...); None where the bytes are not such rows.
Decode = Callable[[bytes, np.ndarray], "np.ndarray | None"]


def pack_rows(rows: np.ndarray, bits: int, encode: Encode | None = None) -> bytes:
    """Rows (C, ...) of values of ``bits`` bits -> bytes; by ``encode`` where that is shorter."""
    same = np.array([np.array_equal(rows[i], rows[i - 1]) for i in range(1, len(rows))], np.uint8)
    channels = np.flatnonzero(np.concatenate([[True], same == 0]))
    stored = rows[channels]
    packed = to_bytes(same, *(pack_bits(row, bits) for row in stored))
    if encode is not None:
        coded = to_bytes(same) + encode(stored, channels)
        if len(coded) < len(packed):
            return coded
    return packed


def rows_are_coded(data: bytes, n_rows: int, row_size: int, bits: int) -> bool:
    """Whether ``data`` is shorter than its rows of ``row_size`` values would be if they were bit-packed."""
    same = from_bytes(data[: (n_rows + 6) // 8])[: n_rows - 1]
    return len(data) < -(-(n_rows - 1 + (n_rows - int(same.sum())) * row_size * bits) // 8)


def unpack_rows(
    data: bytes, n_rows: int, shape: tuple[int, ...], bits: int, decode: Decode | None = None
) -> np.ndarray | None:
    """Inverse of `pack_rows` -> (n_rows, *shape) int64; None when the size is wrong or filling bits are not zero."""
    stream = from_bytes(data)
    if len(stream) < n_rows - 1:
        return None
    same = stream[: n_rows - 1].astype(bool)
    channels, each = np.flatnonzero(np.concatenate([[True], ~same])), int(np.prod(shape)) * bits
    used = n_rows - 1 + len(channels) * each
    if decode is not None and len(data) < -(-used // 8):
        begin = (n_rows + 6) // 8
        filled = stream[n_rows - 1 : 8 * begin].any()
        values = None if filled or len(data) == begin else decode(data[begin:], channels)
    elif len(data) != -(-used // 8) or stream[used:].any():
        values = None
    else:
        values = unpack_bits(stream[n_rows - 1 : used], bits).reshape(-1, *shape)
    if values is None:
        return None
    return values[np.cumsum(~np.concatenate([[False], same])) - 1]
