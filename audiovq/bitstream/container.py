"""The container: a header, numbered packets and an end record, each with its checksum. The content is the media's own.

docs/format.md specifies every byte. Reading and writing work on anything with ``read`` or ``write``: files, bytes in
memory and pipes; nothing seeks, and nothing is written twice.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from audiovq.bitstream.entropy import decode_varint, encode_varint
from audiovq.errors import AudioVQError
from audiovq.io import Place, head_of, size_of

MAGIC = b"AVQ"
VERSION = 2
MEDIA_SPEECH = 1
#: Rows of numbers may be entropy-coded: speaker vectors and payloads of packets.
FLAG_ENTROPY_CODED = 0x01
#: Packets carry pitch and level beside their codes.
FLAG_PITCH = 0x02

MAX_HEADER_BODY = 1 << 16
_BLOCK = 1 << 16
# Bounds on the search for the next good record, so that a hostile file costs seconds, not hours.
_MAX_SCANNED = 8 << 20
_MAX_HASHED = 1 << 30
# A record whose index is at most this much larger than expected is accepted by itself; beyond it, its successor must be
# intact as well.
_WINDOW = 64
# Bound on the packets that may be missing, so that a forged index cannot ask for days of silence: this many times what
# a file of this size can hold, and `_WINDOW`.
_MOST_LOST = 4
_MIN_OVERHEAD = 6  # bytes of a record without its payload: tag, index, checksum


def is_avq(source: Place) -> bool:
    """Whether a path, standard input (``-``) or a binary file begins as an .avq file does; nothing is taken from it.

    Raises:
        AudioVQError: for a file that is missing, empty or not readable.
    """
    return head_of(source, len(MAGIC)) == MAGIC


def media_of(source: Place) -> int | None:
    """The media type of an .avq file; None for anything else, which its reader reports. Nothing is taken from it."""
    try:
        start = head_of(source, 6)
    except AudioVQError:
        return None
    return start[5] if len(start) == 6 and start[:3] == MAGIC else None


class DamagedError(AudioVQError):
    """A file whose bytes are not what was written.

    Attributes:
        index: the first packet that cannot be read; None when the damage is not in a packet.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True)
class Header:
    """What every file starts with; ``body`` is the media's own part."""

    media: int
    model_hash: bytes
    body: bytes
    flags: int = 0

    def to_bytes(self) -> bytes:
        """The header with its checksum."""
        if len(self.model_hash) != 4 or len(self.body) > MAX_HEADER_BODY:
            raise ValueError("a header holds 4 bytes of hash and at most 64 KiB of its own")
        fixed = MAGIC + bytes([VERSION, self.flags, self.media]) + self.model_hash
        data = fixed + encode_varint(len(self.body)) + self.body
        return data + zlib.crc32(data).to_bytes(4, "little")


@dataclass(frozen=True)
class Packet:
    """One packet that arrived whole. ``short``: it holds less than a full packet, so it is the last."""

    index: int
    payload: bytes
    short: bool


@dataclass(frozen=True)
class Gap:
    """Packets ``first`` to ``until - 1`` are lost; ``until`` is None when nothing good follows.

    ``until == first`` means bytes that belong nowhere, with no packet lost; ``behind`` that they follow the end.
    ``at_end`` tells that all packets before the gap are there and only the end record is missing or damaged.
    """

    first: int
    until: int | None
    behind: bool = False
    at_end: bool = False


@dataclass(frozen=True)
class End:
    """The end record: how many packets there are and the media's own measure of the whole (speech: source samples)."""

    n_packets: int
    extent: int


@dataclass(frozen=True)
class _Record:
    """A record whose checksum is right; ``payload`` is None for the end, ``behind`` the position after it."""

    index: int
    payload: bytes | None
    short: bool
    extent: int
    behind: int


class ContainerWriter:
    """Write a header at once, then packets, then the end."""

    def __init__(self, stream: Any, header: Header) -> None:
        self._stream = stream
        data = header.to_bytes()
        self._seed = zlib.crc32(data[-4:])
        self._index = 0
        stream.write(data)
        self.n_bytes = len(data)

    def write_packet(self, payload: bytes, short: bool = False) -> None:
        """Append a packet; ``short`` marks a last one that holds less than a full packet."""
        if not payload:
            raise ValueError("a packet cannot be empty")
        self._write(encode_varint(len(payload) << 1 | short) + encode_varint(self._index) + payload)
        self._index += 1

    def finish(self, extent: int) -> None:
        """Append the end record."""
        self._write(encode_varint(0) + encode_varint(self._index) + encode_varint(extent))

    def _write(self, body: bytes) -> None:
        data = body + zlib.crc32(body, self._seed).to_bytes(4, "little")
        self._stream.write(data)
        self.n_bytes += len(data)


class ContainerReader:
    """Read a header at once, then records as they come.

    Args:
        stream: anything with ``read``; a pipe is read as its bytes arrive.

    Raises:
        DamagedError: for an empty, foreign, cut or altered header.
        AudioVQError: for a version or a feature this release cannot read.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self._size = stream, size_of(stream)
        self._buffer = bytearray()
        self._position = 0
        self._exhausted = False
        self._read_before = 0  # bytes read and dropped from the buffer
        self._hashed = 0
        self._scanned = 0
        self._valid_length: Callable[[int, bool], bool] = lambda length, short: False
        self._smallest = 1
        self.header = self._read_header()

    @property
    def n_bytes(self) -> int:
        """Bytes consumed so far."""
        return self._read_before + self._position

    def records(
        self,
        valid_length: Callable[[int, bool], bool],
        conceal: bool = False,
        reach: int = _MAX_SCANNED,
        smallest: int = 1,
    ) -> Iterator[Packet | Gap | End]:
        """Packets in their order and the end.

        Args:
            valid_length: whether a payload may have so many bytes, given whether it is short. It bounds what is read
                ahead for a record whose length may be damaged.
            conceal: after damage, search on and give `Gap` for what is lost. Without an end record the last
                thing given is a `Gap` with ``until=None``.
            reach: bytes that are searched in all.
            smallest: bytes of the smallest payload of a full packet: bounds how many packets can be missing.

        Raises:
            DamagedError: at the first damage, unless ``conceal``.
        """
        self._valid_length, self._smallest = valid_length, smallest
        expected = 0
        while True:
            record = self._record_at(self._position, expected, expected)
            if record is None:
                if not conceal:
                    raise self._damage(expected)
                at_end = self._only_end_left()
                record = self._search(expected, reach)
                yield Gap(expected, record.index if record else None, at_end=at_end)
                if record is None:
                    return
            self._position = record.behind
            self._drop_read()
            expected = record.index + 1
            if record.payload is not None:
                yield Packet(record.index, record.payload, record.short)
                continue
            if self._available(self._position + 1):
                if not conceal:
                    raise DamagedError("there is more data behind its end; was something appended to it?")
                yield Gap(record.index, record.index, behind=True)
            yield End(record.index, record.extent)
            return

    def _only_end_left(self) -> bool:
        """Whether what is left looks like an end record, or the beginning of one: a zero and no more than it holds."""
        return not self._available(self._position + 24) and self._buffer[self._position : self._position + 1] == b"\0"

    def _damage(self, expected: int) -> DamagedError:
        if self._exhausted and self._position == len(self._buffer):
            return DamagedError("it is cut off", expected)
        return DamagedError("it is damaged or cut off", expected)

    def _read_header(self) -> Header:
        if not self._available(1):
            raise DamagedError("it is empty")
        self._available(len(MAGIC) + 7)
        if bytes(self._buffer[: len(MAGIC)]) != MAGIC[: len(self._buffer)]:
            raise DamagedError("this is not an .avq file; audiovq encode writes them")
        if len(self._buffer) > 3 and self._buffer[3] != VERSION:
            advice = "update audiovq" if self._buffer[3] > VERSION else "encode the source again"
            raise AudioVQError(f"its format version is {self._buffer[3]}, this release reads {VERSION}; {advice}")
        size = self._varint_at(len(MAGIC) + 7)
        if size is None and not self._available(len(MAGIC) + 10):
            raise DamagedError("it is cut off inside its header")
        if size is None or size[0] > MAX_HEADER_BODY:
            raise DamagedError("its header is damaged")
        length, start = size
        behind = start + length + 4
        if not self._available(behind):
            raise DamagedError("it is cut off inside its header")
        data = bytes(self._buffer[:behind])
        checksum = zlib.crc32(data[:-4])
        if checksum != int.from_bytes(data[-4:], "little"):
            raise DamagedError("its header is damaged")
        self._seed, self._position = zlib.crc32(data[-4:]), behind
        flags, media = data[4], data[5]
        if flags & ~(FLAG_ENTROPY_CODED | FLAG_PITCH):
            raise AudioVQError(
                f"it has unknown features (flags {flags:#x}), which this release cannot read; update audiovq"
            )
        return Header(media, data[6:10], data[start:-4], flags)

    def _available(self, end: int) -> bool:
        """Read until the buffer reaches ``end``; False when the stream ends before."""
        while len(self._buffer) < end and not self._exhausted:
            # read1 gives what a pipe holds now; plain read would wait for a whole block.
            read = getattr(self._stream, "read1", None)
            data = read(_BLOCK) if read else self._stream.read(min(end - len(self._buffer), _BLOCK))
            if data:
                self._buffer += data
            else:
                self._exhausted = True
        return len(self._buffer) >= end

    def _drop_read(self) -> None:
        if self._position >= _BLOCK:
            del self._buffer[: self._position]
            self._read_before += self._position
            self._position = 0

    def _varint_at(self, position: int) -> tuple[int, int] | None:
        self._available(position + 2)
        for end in (position + 2, position + 9):
            self._available(end)
            try:
                found = decode_varint(self._buffer[position:end])
            except ValueError:
                return None
            if found:
                return found[0], position + found[1]
        return None

    def _record_at(self, position: int, lowest: int, highest: int | None = None) -> _Record | None:
        """The intact record that starts at ``position`` with an index from ``lowest`` to ``highest``; None for none."""
        found = self._varint_at(position)
        if found is None:
            return None
        tag, start = found
        length, short = tag >> 1, bool(tag & 1)
        if tag and not (length and self._valid_length(length, short)):
            return None
        found = self._varint_at(start)
        if found is None or found[0] < lowest or (highest is not None and found[0] > highest):
            return None
        index, start = found
        extent = 0
        if tag == 0:
            found = self._varint_at(start)
            if found is None:
                return None
            extent, behind = found
        else:
            behind = start + length
        if not self._available(behind + 4):
            return None
        body = self._buffer[position:behind]
        self._hashed += len(body)
        if zlib.crc32(body, self._seed) != int.from_bytes(self._buffer[behind : behind + 4], "little"):
            return None
        return _Record(index, bytes(body[start - position :]) if tag else None, short, extent, behind + 4)

    def _search(self, expected: int, reach: int) -> _Record | None:
        """The next record that can be believed, from the current position on; None when there is none."""
        self._hashed = 0
        begin = self._position
        while self._scanned < reach and self._hashed < _MAX_HASHED and self._available(self._position + 1):
            record = self._record_at(self._position, expected, self._highest_index())
            if record is not None and self._believable(record, expected, self._position - begin):
                return record
            self._position += 1
            self._scanned += 1
        return None

    def _highest_index(self) -> int:
        """The largest index that is believed after damage, from the bytes of the file, or those read so far."""
        size = self._size or self._read_before + len(self._buffer)
        return _WINDOW + _MOST_LOST * size // (self._smallest + _MIN_OVERHEAD)

    def _believable(self, record: _Record, expected: int, passed: int) -> bool:
        near = record.index - expected <= _WINDOW + passed // 16
        if record.payload is None:
            return near or not self._available(record.behind + 1)
        if near and not record.short:
            return True
        return self._record_at(record.behind, record.index + 1, record.index + 1) is not None


def frames_in(payload: bytes, short: bool, packet_frames: int) -> tuple[int, int]:
    """The number of frames of a packet (a short one begins with it), and where in its payload its content begins.

    Raises:
        DamagedError: for a number that cannot be.
    """
    if not short:
        return packet_frames, 0
    try:
        found = decode_varint(payload)
    except ValueError:
        found = None
    if found is None or not 1 <= found[0] < packet_frames:
        raise DamagedError("a packet has an impossible number of frames")
    return found
