"""Checks of compressed audio that decoders pass over in silence: pages of Ogg files (RFC 3533), frames of MP3."""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from audiovq.errors import AudioVQError
from audiovq.media.samples import Audio, TimeRanges

_BLOCK = 1 << 16
_BITS_REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))
_HEADER = 27
_CONTINUED, _BEGINS, _ENDS = 1, 2, 4
_NO_TIME = (1 << 64) - 1


@dataclass(frozen=True)
class OggPages:
    """What the pages of an Ogg file say."""

    damaged_after: int | None  # granule position of the last page before damage that other pages follow
    is_complete: bool  # the last page is whole and marked as such
    is_chained: bool  # another stream begins where the first one ends


def read_pages(stream: BinaryIO) -> OggPages:
    """Read all pages of an Ogg file from its first byte, and compare them with their checksums and numbers."""
    stream.seek(0)
    numbers: dict[bytes, int] = {}
    granule, ended, chained = 0, False, False
    while header := stream.read(_HEADER):
        page = _rest_of_page(stream, header)
        if page is None:
            later = b"OggS\0" in header[1:] or _occurs(stream, b"OggS\0")
            return OggPages(granule if later else None, ended and not later, chained)
        serial, number = page[14:18], int.from_bytes(page[18:22], "little")
        if page[5] & _BEGINS:
            chained |= ended
        elif number != numbers.get(serial, number - 1) + 1 and granule:
            return OggPages(granule, False, chained)
        numbers[serial] = number
        position = int.from_bytes(page[6:14], "little")
        granule = granule if position == _NO_TIME else position
        ended = bool(page[5] & _ENDS)
    return OggPages(None, ended, chained)


def check_pages(pages: OggPages, granule_rate: int) -> None:
    """Raise `AudioVQError`, with the time, for an Ogg file that is damaged before its end."""
    if pages.damaged_after is not None:
        raise AudioVQError(f"cannot be decoded from {pages.damaged_after / granule_rate:.2f} s on; it is damaged")


def _rest_of_page(stream: BinaryIO, header: bytes) -> bytes | None:
    """A page from its header; None where it is damaged or cut off, with the stream behind the header."""
    place = stream.tell()
    if len(header) == _HEADER and header[:5] == b"OggS\0":
        sizes = stream.read(header[26])
        body = stream.read(sum(sizes))
        if len(sizes) == header[26] and len(body) == sum(sizes):
            page = header + sizes + body
            if page_checksum(page) == int.from_bytes(page[22:26], "little"):
                return page
    stream.seek(place)
    return None


def page_checksum(page: bytes) -> int:
    """The CRC of an Ogg page: that of zlib with the bits of each byte, and of the result, in reverse order."""
    blank = page[:22] + bytes(4) + page[26:]
    value = zlib.crc32(blank.translate(_BITS_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def _occurs(stream: BinaryIO, pattern: bytes) -> bool:
    """Whether the rest of a stream has these bytes somewhere."""
    tail = b""
    while data := stream.read(_BLOCK):
        if pattern in tail + data:
            return True
        tail = data[1 - len(pattern) :]
    return False


_LAYERS = {3: 1, 2: 2, 1: 3}
_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
#: kb/s by version 1 or not, and layer; index 0 is a free format, whose frames have any size.
_KBPS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBPS[False, 3] = _KBPS[False, 2]
_WINDOW = 1 << 13  # more than two of the largest frames
_MOST_CANDIDATES = 20_000
_FRAMES_OF_PADDING = 8  # at most, of an MP3: what encoders add before and behind, and a frame with the length


@dataclass(frozen=True)
class MpegFrames:
    """What the frames of an MPEG audio file say."""

    n_samples: int  # of each channel in all whole frames, those of a frame that only states the length included
    frame_samples: int  # of each channel in a frame
    damaged_at: tuple[int, ...]  # samples before each place where no frame begins although one should
    is_complete: bool  # the last frame is whole


def read_frames(stream: BinaryIO) -> MpegFrames | None:
    """Read the headers of all frames of an MPEG audio file; None where they do not say where frames end."""
    frames = _Frames(stream)
    while (size := frames.fill()) > 0:
        found = frames.frame(0)
        if found is not None and found[0] > size:
            return frames.result(False)
        if found is not None:
            frames.n_samples += found[1]
            frames.skip(found[0])
        elif tag := _tag_bytes(frames.head(32)):
            frames.skip(tag)
        elif not frames.search():
            break
    return frames.result(True)


def check_frames(frames: MpegFrames, n_read: int, audio: Audio) -> None:
    """Note what was lost of an MP3, whose decoder passes over what it cannot read.

    Raises:
        AudioVQError: when it has stopped although more than a few frames follow.
    """
    rate, slack = audio.sample_rate, _FRAMES_OF_PADDING * frames.frame_samples
    left = frames.n_samples - n_read
    if left > slack and (audio.n_frames is None or n_read < audio.n_frames - frames.frame_samples):
        raise AudioVQError(f"cannot be decoded from {n_read / rate:.2f} s on; it is damaged")
    if left > slack:
        audio.remarks.append(
            f"warning: by its header it ends at {n_read / rate:.2f} s; {left / rate:.2f} s that follow were left out"
        )
    damaged = TimeRanges()
    for sample in frames.damaged_at:
        damaged.add(sample / rate, sample / rate)
    if damaged:
        audio.remarks.append(f"warning: damaged at {damaged}; what cannot be decoded there is missing")


class _Frames:
    """A window that moves over a file, from frame to frame."""

    def __init__(self, stream: BinaryIO) -> None:
        stream.seek(0)
        self._stream, self._data, self._at = stream, b"", 0
        self._like: tuple[int, int] | None = None
        self._candidates = self.n_samples = self._frame_samples = 0
        self._damaged_at: list[int] = []

    def fill(self) -> int:
        """Read on where little is left; the bytes that are there."""
        if len(self._data) - self._at < _WINDOW:
            self._data, self._at = self._data[self._at :] + self._stream.read(_BLOCK), 0
        return len(self._data) - self._at

    def head(self, size: int) -> bytes:
        return self._data[self._at : self._at + size]

    def skip(self, size: int) -> None:
        there = len(self._data) - self._at
        if size > there:
            self._stream.seek(size - there, os.SEEK_CUR)
        self._at += min(size, there)

    def frame(self, offset: int) -> tuple[int, int] | None:
        """Bytes and samples of the frame that begins here; None where none does, or one of another stream."""
        place = self._at + offset
        found = _frame_of(self._data[place : place + 4])
        if found is None or self._like not in (None, found[2]):
            return None
        if offset == 0 and self._like is None:
            if _frame_of(self._data[place + found[0] : place + found[0] + 4]) is None:
                return None
            self._like, self._frame_samples = found[2], found[1]
        return found[:2]

    def search(self) -> bool:
        """Go to the next place where two frames follow each other; False where there is none."""
        while (size := self.fill()) > 4:
            for match in re.finditer(rb"\xff[\xe2-\xff]", self._data[self._at + 1 : self._at + size]):
                offset = match.start() + 1
                self._candidates += 1
                if self._candidates > _MOST_CANDIDATES:
                    return False
                first = self.frame(offset)
                if first is not None and self.frame(offset + first[0]) is not None:
                    if self.n_samples:
                        self._damaged_at.append(self.n_samples)
                    self._at += offset
                    return True
            if size < _WINDOW:
                return False
            self._at += size - _WINDOW // 2
        return False

    def result(self, is_complete: bool) -> MpegFrames | None:
        if self._like is None or self._candidates > _MOST_CANDIDATES:
            return None
        return MpegFrames(self.n_samples, self._frame_samples, tuple(self._damaged_at), is_complete)


def _frame_of(header: bytes) -> tuple[int, int, tuple[int, int]] | None:
    """Bytes and samples of a frame by its header, and what all headers of a stream have in common."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, _LAYERS.get(header[1] >> 1 & 3)
    rate, kbps = header[2] >> 2 & 3, header[2] >> 4
    if version == 1 or layer is None or rate == 3 or kbps in (0, 15):
        return None
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    bits = 1000 * _KBPS[version == 3, layer][kbps - 1] * samples // 8
    unit = 4 if layer == 1 else 1
    size = (bits // _HZ[version][rate] // unit + (header[2] >> 1 & 1)) * unit
    return size, samples, (header[1] & 0x1E, rate)


def _tag_bytes(head: bytes) -> int:
    """Bytes of the tag that begins here; 0 where none does."""
    if head[:3] == b"ID3" and len(head) >= 10:
        size = sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        return size + (20 if head[5] & 0x10 else 10)
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) >= 24:
        return int.from_bytes(head[12:16], "little") + (32 if head[23] & 0x20 else 0)
    return 0
