"""CRC32 of records, and the way back from a checksum to the position it was made for.

A record's checksum ends with the record's index, which is not stored. So a record that was repeated, moved or taken out
is noticed without a byte spent on numbering. After damage the reader wants the index of a record it comes across: CRC32
over a four-byte end is a one-to-one map of those bytes, so running the register four bytes back gives them.
"""

from __future__ import annotations

import zlib

_POLYNOMIAL = 0xEDB88320  # CRC-32 as in zlib, PNG and Ethernet, bit-reversed


def _make_table() -> list[int]:
    table = []
    for byte in range(256):
        register = byte
        for _ in range(8):
            register = register >> 1 ^ (_POLYNOMIAL if register & 1 else 0)
        table.append(register)
    return table


_TABLE = _make_table()
#: Which table entry has a given top byte: each top byte occurs once, which is what makes a step reversible.
_BY_TOP_BYTE = {entry >> 24: byte for byte, entry in enumerate(_TABLE)}


def record_checksum(body: bytes | bytearray | memoryview, index: int, seed: int) -> int:
    """CRC32 of ``seed`` (4 bytes), ``body`` and ``index`` (4 bytes), the numbers little-endian."""
    register = zlib.crc32(body, zlib.crc32(seed.to_bytes(4, "little")))
    return zlib.crc32(index.to_bytes(4, "little"), register)


def index_of(body: bytes | bytearray | memoryview, checksum: int, seed: int) -> int:
    """The one index for which `record_checksum` gives ``checksum``; after damage, any 32-bit number."""
    before = zlib.crc32(body, zlib.crc32(seed.to_bytes(4, "little"))) ^ 0xFFFFFFFF
    register = checksum ^ 0xFFFFFFFF
    for _ in range(4):
        byte = _BY_TOP_BYTE[register >> 24]
        register = (register ^ _TABLE[byte]) << 8 & 0xFFFFFFFF | byte
    return register ^ before
