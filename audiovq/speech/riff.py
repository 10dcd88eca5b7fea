"""WAV on streams that cannot seek: reading what a pipe brings, and headers for what is written.

Chunks and format tags: "Multimedia Programming Interface and Data Specifications 1.0" (IBM, Microsoft, 1991), and
WAVEFORMATEXTENSIBLE for more than two channels.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from audiovq.errors import AudioVQError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
#: The end of the GUID that says "the first two bytes are an ordinary format tag".
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_UNKNOWN_SIZE = 0xFFFFFFFF
_BLOCK = 1 << 16
_MAX_FORMAT_CHUNK = 1 << 12


class NotStreamableError(Exception):
    """The bytes are no WAV that can be read while it arrives; another reader may know them."""


@dataclass(frozen=True)
class WavFormat:
    """How samples are stored. ``size``: bytes of the data, None when it lasts until the stream's end."""

    sample_rate: int
    n_channels: int
    bytes_per_sample: int
    is_float: bool
    size: int | None


def read_wav_header(read: Callable[[int], bytes]) -> WavFormat:
    """Parse from the first byte to the first byte of audio.

    Args:
        read: gives up to n bytes, fewer only at the end.

    Raises:
        NotStreamableError: for other formats, and for codings other than linear and floating point.
        AudioVQError: for a WAV that is cut off inside its header.
    """
    start = read(12)
    if len(start) < 12 or start[:4] != b"RIFF" or start[8:] != b"WAVE":
        raise NotStreamableError
    open_ended = struct.unpack("<I", start[4:8])[0] in (0, _UNKNOWN_SIZE)
    found = None
    while True:
        head = read(8)
        if len(head) < 8:
            raise AudioVQError("the WAV ends before its audio")
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"data":
            break
        if name == b"fmt ":
            if size > _MAX_FORMAT_CHUNK:
                raise NotStreamableError
            found = _parse_format(read(size + (size & 1)))
        else:
            _skip(read, size + (size & 1))
    if found is None:
        raise NotStreamableError
    # Programs that write to a pipe do not know the size: they leave 0 or the largest number.
    unknown = size == _UNKNOWN_SIZE or (size == 0 and open_ended)
    return WavFormat(*found, size=None if unknown else size)


def _parse_format(data: bytes) -> tuple[int, int, int, bool]:
    if len(data) < 16:
        raise AudioVQError("the WAV ends before its audio")
    tag, n_channels, sample_rate, _, frame_bytes, bits = struct.unpack("<HHIIHH", data[:16])
    if tag == _EXTENSIBLE and len(data) >= 40 and data[26:40] == _GUID_TAIL:
        tag = struct.unpack("<H", data[24:26])[0]
    width = frame_bytes // n_channels if n_channels else 0
    known = (tag == _PCM and width in (1, 2, 3, 4)) or (tag == _FLOAT and width in (4, 8))
    if not known or width * n_channels != frame_bytes or bits != 8 * width:
        raise NotStreamableError
    return sample_rate, n_channels, width, tag == _FLOAT


def _skip(read: Callable[[int], bytes], size: int) -> None:
    while size > 0:
        data = read(min(size, _BLOCK))
        if not data:
            raise AudioVQError("the WAV ends before its audio")
        size -= len(data)


def read_wav_blocks(stream: Any, wav: WavFormat) -> Iterator[np.ndarray]:
    """The samples behind a header as they arrive: blocks (n, channels) float32, full scale 1.0.

    A last frame that is not whole is dropped, and what follows the audio is read and ignored.
    """
    frame = wav.bytes_per_sample * wav.n_channels
    left = wav.size
    rest = b""
    # read1 gives what a pipe holds now, so that a slow source is coded while it speaks.
    read = getattr(stream, "read1", stream.read)
    while left is None or left > 0:
        data = read(max(_BLOCK, frame))
        if not data:
            break
        data = rest + (data if left is None else data[:left])
        if left is not None:
            left -= len(data) - len(rest)
        whole = len(data) - len(data) % frame
        rest = data[whole:]
        if whole:
            yield _to_float(data[:whole], wav).reshape(-1, wav.n_channels)
    while read(_BLOCK):  # the writer at the other end of a pipe should not meet a closed door
        pass


def _to_float(data: bytes, wav: WavFormat) -> np.ndarray:
    if wav.is_float:
        with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, which is refused by name
            return np.frombuffer(data, f"<f{wav.bytes_per_sample}").astype(np.float32)
    if wav.bytes_per_sample == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    if wav.bytes_per_sample == 2:
        return np.frombuffer(data, "<i2").astype(np.float32) / 32768
    if wav.bytes_per_sample == 3:
        # Three bytes become the upper ones of four, which keeps the sign.
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4").reshape(-1).astype(np.float32) / 2147483648
    return np.frombuffer(data, "<i4").astype(np.float32) / 2147483648


def wav_header(sample_rate: int, n_channels: int, n_bytes: int | None) -> bytes:
    """Header of 16-bit audio of ``n_bytes``; None where that is not known: the sizes are then the largest number."""
    tag, extra = _PCM, b""
    if n_channels > 2:
        # More than two channels need the extensible form; speaker positions are left open.
        tag, extra = _EXTENSIBLE, struct.pack("<HHIH", 22, 16, 0, _PCM) + _GUID_TAIL
    fmt = struct.pack(
        "<HHIIHH", tag, n_channels, sample_rate, min(2 * n_channels * sample_rate, _UNKNOWN_SIZE), 2 * n_channels, 16
    )
    fmt += extra
    size = _UNKNOWN_SIZE if n_bytes is None else min(n_bytes, _UNKNOWN_SIZE)
    whole = min(4 + 8 + len(fmt) + 8 + size, _UNKNOWN_SIZE)
    return struct.pack("<4sI8sI", b"RIFF", whole, b"WAVEfmt ", len(fmt)) + fmt + struct.pack("<4sI", b"data", size)
