"""Containers of sound and video: WAV from files and pipes, and what PyAV reads (extra ``video``).

Chunks and format tags: "Multimedia Programming Interface and Data Specifications 1.0" (IBM, Microsoft, 1991), and
WAVEFORMATEXTENSIBLE for more than two channels.

Sizes of WAV are often wrong: programs that write to a pipe do not know them, recorders that were killed have not
written them, and beyond 4 GiB they wrap. What counts as audio is therefore decided by what stands there: it lasts as
long as the header says and goes on while no other chunk begins.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from audiovq.errors import AudioVQError, need
from audiovq.io import Peekable, is_path, is_special
from audiovq.media.samples import Audio, RawFormat, read_frames

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_SAMPLES = {(_PCM, 1): "u8", (_PCM, 2): "s16le", (_PCM, 3): "s24le", (_PCM, 4): "s32le", (_FLOAT, 4): "f32le"}
_SAMPLES[_FLOAT, 8] = "f64le"
#: The end of the GUID that says "the first two bytes are an ordinary format tag".
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_UNKNOWN_SIZE = 0xFFFFFFFF
_OPEN_ENDED = 0x7FF00000
"""Sizes from here on may be what writers to a pipe leave: 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF and others."""
_WRAP = 1 << 32
_SLACK = 64  # bytes by which a size is too large where a writer has counted its own headers
_MAX_FORMAT_CHUNK = 1 << 12
_MAX_STRANGE_CHUNK = 1 << 20
_PADDING = 1 << 13
_BLOCK = 1 << 16
_NAMES = (
    "data fmt  fact LIST INFO JUNK junk PAD  FLLR bext iXML axml chna cue  plst smpl inst labl note ltxt adtl PEAK "
    "levl DISP cart slnt wavl id3  ID3  _PMX afsp SAUR LGWV elm1 regn minf umid RIFF clm  acid strc "
)
_KNOWN = frozenset(_NAMES[i : i + 4].encode() for i in range(0, len(_NAMES), 5))
_CHUNKS = {b"caff": (8, ">4sq", 1), b"RF64": (12, "<4sI", 2)}
_CHUNKS |= dict.fromkeys((b"FORMAIFF", b"FORMAIFC"), (12, ">4sI", 2))
"""By the beginning of a file: where its first chunk is, the layout of a chunk's head, and to what chunks are padded."""
_MOST_CHUNKS = 1000
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")  # of music players, behind everything else


@dataclass(frozen=True)
class WavHeader:
    """What stands before the audio of a WAV."""

    raw: RawFormat | None  # how samples are stored; None for other codings than linear and floating point
    size: int  # bytes of audio, as the header has it
    begins: int  # where in the file the audio begins
    is_open: bool  # all sizes are those of a writer that did not know them


class NotStreamableError(Exception):
    """The bytes are no WAV of linear or floating-point samples, or have a ``header`` that says another coding."""

    def __init__(self, header: WavHeader | None = None) -> None:
        super().__init__()
        self.header = header


def open_wav(stream: Peekable, file_size: int | None) -> Audio:
    """A WAV of linear or floating-point samples, which is read while it arrives, from the stream's first byte.

    Raises:
        NotStreamableError: for other formats and codings.
        AudioVQError: for a WAV that is cut off inside its header.
    """
    header = read_header(stream)
    if header.raw is None:
        raise NotStreamableError(header)
    n_bytes = None if header.size >= _OPEN_ENDED or not header.size else header.size
    if file_size is not None:
        there = file_size - header.begins
        n_bytes = there if n_bytes is None else min(n_bytes, there)
    n_frames = None if n_bytes is None else max(n_bytes, 0) // header.raw.frame_bytes
    audio = Audio(header.raw.sample_rate, header.raw.n_channels, n_frames, iter(()))
    audio.blocks = _read_blocks(stream, header, header.raw, audio.remarks)
    return audio


def read_header(stream: Peekable) -> WavHeader:
    """Read from the first byte to the first byte of audio.

    Raises:
        NotStreamableError: for what is no WAV.
        AudioVQError: for a WAV that is cut off inside its header.
    """
    start = stream.read(12)
    if len(start) < 12 or start[:4] != b"RIFF" or start[8:] != b"WAVE":
        raise NotStreamableError
    riff_size = struct.unpack("<I", start[4:8])[0]
    raw, begins, odd = None, 12, False
    while True:
        chunk = _next_chunk(stream, odd)
        if chunk is None:
            if len(stream.peek(8)) < 8:
                raise AudioVQError("is not audio: the WAV ends before its samples")
            raise NotStreamableError
        name, size, skipped = chunk
        begins += skipped + 8
        if name == b"data":
            return WavHeader(raw, size, begins, riff_size in (0, _UNKNOWN_SIZE))
        if name == b"fmt " and size <= _MAX_FORMAT_CHUNK:
            raw = _parse_format(stream.read(size))
        elif not _skip(stream, size):
            raise AudioVQError("is not audio: the WAV ends before its samples")
        begins, odd = begins + size, bool(size & 1)


def _parse_format(data: bytes) -> RawFormat | None:
    if len(data) < 16:
        return None
    tag, n_channels, sample_rate, _, frame_bytes, bits = struct.unpack("<HHIIHH", data[:16])
    if tag == _EXTENSIBLE and len(data) >= 40 and data[26:40] == _GUID_TAIL:
        tag = struct.unpack("<H", data[24:26])[0]
    width = frame_bytes // n_channels if n_channels else 0
    samples = _SAMPLES.get((tag, width))
    if samples is None or width * n_channels != frame_bytes or bits != 8 * width or not sample_rate:
        return None
    return RawFormat(samples, sample_rate, n_channels)


def _next_chunk(stream: Peekable, odd: bool) -> tuple[bytes, int, int] | None:
    """Take the head of the next chunk: name, size, and bytes skipped before it; None where no chunk begins.

    A chunk of odd length is followed by a pad byte, which some writers forget.
    """
    for skipped in (1, 0) if odd else (0,):
        head = stream.peek(skipped + 8)[skipped:]
        if len(head) == 8 and _is_chunk(head):
            stream.read(skipped + 8)
            return head[:4], struct.unpack("<I", head[4:])[0], skipped
    return None


def _is_chunk(head: bytes) -> bool:
    """Whether eight bytes look like the name and size of a chunk. Loud samples may be letters, but no known name."""
    name, size = head[:4], struct.unpack("<I", head[4:])[0]
    return name in _KNOWN or (size <= _MAX_STRANGE_CHUNK and re.fullmatch(rb"[\w .-]{4}", name) is not None)


def _skip(stream: Peekable, size: int) -> bool:
    """Read and forget; False where the stream ends before."""
    while size > 0:
        data = stream.read(min(size, _BLOCK))
        if not data:
            return False
        size -= len(data)
    return True


class _Data:
    """The audio behind a header as a stream: it ends where other chunks begin, or all bytes do.

    ``left_out`` names what follows that is neither read nor known.
    """

    def __init__(self, stream: Peekable, header: WavHeader) -> None:
        self._stream = stream
        endless = header.size == _UNKNOWN_SIZE or (header.size == 0 and header.is_open)
        self._left = None if endless else header.size
        self.n_read = 0
        self.left_out: str | None = None

    def read1(self, size: int) -> bytes:
        if self._left == 0:
            if not self.goes_on(odd=bool(self.n_read & 1)):
                return b""
            self._left = _WRAP  # sizes that did not fit 32 bits are wrong by so much
        data = self._stream.read1(size if self._left is None else min(size, self._left))
        self.n_read += len(data)
        if self._left is not None:
            self._left = self._left - len(data) if data else None
        return data

    def goes_on(self, odd: bool) -> bool:
        """Whether audio follows, rather than chunks, padding or nothing; these are read to the stream's end."""
        n_chunks = 0
        while (chunk := _next_chunk(self._stream, odd)) is not None:
            name, size, _ = chunk
            if name in (b"RIFF", b"data"):
                self.left_out = "more audio with a header of its own follows and was left out"
            _skip(self._stream, size)
            odd, n_chunks = bool(size & 1), n_chunks + 1
        head = self._stream.peek(_PADDING)
        head = head[1:] if odd and head.startswith(b"\0") else head
        if not (n_chunks or head.startswith(_TAGS) or (len(head) < _PADDING - 1 and not head.strip(b"\0"))):
            return True
        while self._stream.read(_BLOCK):  # the writer at the other end of a pipe should not meet a closed door
            pass
        return False


def _read_blocks(stream: Peekable, header: WavHeader, raw: RawFormat, remarks: list[str]) -> Iterator[np.ndarray]:
    data = _Data(stream, header)
    yield from read_frames(data, raw)
    declared, second = header.size, raw.frame_bytes * raw.sample_rate
    if data.n_read > declared and not header.is_open and declared < _OPEN_ENDED:
        remarks.append(
            f"warning: by its header it ends at {declared / second:.2f} s; all {data.n_read / second:.2f} s that are "
            "there were read"
        )
    if declared < _OPEN_ENDED and data.n_read < declared - _SLACK:
        remarks.append(
            f"warning: it ends at {data.n_read / second:.2f} s, but its header states {declared / second:.2f} s; "
            "was it cut off?"
        )
    if data.left_out:
        remarks.append(f"warning: {data.left_out}")


def check_sizes(stream: Peekable, header: WavHeader, file_size: int) -> list[str]:
    """Remarks on a WAV that another reader reads by its header; ``stream`` stands where the audio ends by that."""
    data = _Data(stream, header)
    if header.size < _OPEN_ENDED and file_size < header.begins + header.size - _SLACK:
        return ["warning: it ends before its audio does by its header; was it cut off?"]
    behind = file_size - header.begins - header.size
    if behind > 0 and data.goes_on(odd=bool(header.size & 1)):
        return [_left_out(behind)]
    return [f"warning: {data.left_out}"] if data.left_out else []


_MATLAB_BYTES = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}  # of a value, by the tens of its type (level 4)


def _left_out(n_bytes: int) -> str:
    return f"warning: {n_bytes:,} bytes follow where by its header the audio ends; they were left out"


def _matlab_end(head: bytes) -> int:
    """Where the samples of a MATLAB file that libsndfile reads end by its header; 0 for other files."""
    name = head.find(b"wavedata")
    if name < 20 or len(head) < name + 16:
        return 0
    if head.startswith(b"MATLAB 5.0"):
        return name + 16 + int.from_bytes(head[name + 12 : name + 16], "little" if head[126:128] == b"IM" else "big")
    kind, rows, columns = struct.unpack("<III" if head[name - 4] else ">III", head[name - 20 : name - 8])
    return name + 9 + rows * columns * _MATLAB_BYTES.get(kind // 10 % 10, 0)


def check_end(stream: BinaryIO, file_size: int) -> list[str]:
    """As `check_sizes`, of AU, CAF, AIFF, RF64 and MATLAB files; ``stream`` can seek."""
    stream.seek(0)
    head, size = stream.read(512), 0
    if (missing := _matlab_end(head) - file_size) > _SLACK:
        return [f"warning: its end is missing: its header states {missing:,} bytes more"]
    head = head[:36]
    ends, layout, pad = _CHUNKS.get(head[:4] + head[8:12] if head[:4] == b"FORM" else head[:4], (0, "", 1))
    if head[:4] == b".snd" and len(head) == 36:
        ends = sum(struct.unpack(">II", head[4:12]))
    for _ in range(_MOST_CHUNKS if layout else 0):
        stream.seek(ends)
        chunk = stream.read(struct.calcsize(layout))
        if len(chunk) < struct.calcsize(layout):
            return []
        name, size = struct.unpack(layout, chunk)
        if name == b"data" and size == _UNKNOWN_SIZE:
            size = struct.unpack("<Q", head[28:36])[0]
        ends += len(chunk) + size
        if name in (b"data", b"SSND") or not 0 < ends < file_size:
            break
        ends += size % pad
    if head[:4] == b"caff" and size > 0 and ends > file_size + _SLACK:  # of others, libsndfile says so
        return [f"warning: its end is missing: its header states {ends - file_size:,} bytes more"]
    if not 0 < ends < file_size or size < 0:
        return []
    stream.seek(ends)
    rest = stream.read(_PADDING)
    for tail in (rest, rest[size % pad :]):  # writers forget the pad byte
        name = tail[:4]
        is_chunk = layout and len(tail) >= struct.calcsize(layout) and re.fullmatch(rb"[\w .()-]{4}", name)
        if is_chunk and 0 <= struct.unpack_from(layout, tail)[1] <= max(file_size - ends, _MAX_STRANGE_CHUNK):
            return []
        if tail.startswith(_TAGS) or not tail.strip(b"\0"):
            return []
    return [_left_out(file_size - ends)]


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


HEAD_BYTES = 192
#: File name endings of containers that may hold both sound and images.
CONTAINER_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
_STARTS = {
    b"\x1a\x45\xdf\xa3": ("matroska", "a WebM or Matroska file"),
    b"\x30\x26\xb2\x75": ("asf", "a Windows Media file"),
    b"OggS": ("ogg", "an Ogg file"),
    b"#!AMR": ("amr", "an AMR file"),
    b"ID3": ("aac", "an AAC file"),
    b"\xff\xf1": ("aac", "an AAC file"),
    b"\xff\xf9": ("aac", "an AAC file"),
    b"ADIF": ("aac", "an AAC file"),
    b"\x0b\x77": ("ac3", "an AC-3 file"),
    b"wvpk": ("wv", "a WavPack file"),
    b"MAC ": ("ape", "a Monkey's Audio file"),
    b"TTA1": ("tta", "a True Audio file"),
    b"DSD ": ("dsf", "a DSD file"),
    b"FLV\x01": ("flv", "a Flash video"),
    b"caff": ("caf", "a CAF file"),
}
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


def container_of(head: bytes) -> tuple[str, str] | None:
    """FFmpeg's name of a container, and a name for messages, from its first `HEAD_BYTES`; None for others.

    FFmpeg itself would guess, also from text: playlists would make it open other files and addresses.
    """
    if head[4:8] in _BOXES:
        return "mov", "an MP4, M4A or 3GP file"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi", "an AVI file"
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav", "a WAV of a rare coding"
    if head[:1] == head[188:189] == b"G":
        return "mpegts", "an MPEG transport stream"
    return next((names for start, names in _STARTS.items() if head.startswith(start)), None)


@contextmanager
def open_container(stream: Any, name: str, label: str) -> Iterator[Any]:
    """PyAV's container of a binary file that can seek; ``name`` and ``label`` are from `container_of`.

    Raises:
        AudioVQError: when PyAV is missing, or for a damaged file.
    """
    av = need("av", f"is {label}, which", "video")
    try:
        # Titles and the like may be in any encoding.
        container = av.open(stream, format=name, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise AudioVQError(f"is {label} that cannot be read ({reason_of(error)})") from None
    with container:
        yield container


def reason_of(error: Exception) -> str:
    """What FFmpeg says of an error, in one line."""
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return f"{reason[:1].lower()}{reason[1:]}"


def contents_of(source: str | Path) -> set[str]:
    """Which of "images" and "sound" are in a file; none where it is not a container or cannot be read.

    A cover does not count as images.

    Raises:
        AudioVQError: when PyAV is missing.
    """
    if not is_path(source) or is_special(source) or not os.path.isfile(source):
        return set()
    with open(source, "rb") as stream:
        name = container_of(stream.read(HEAD_BYTES))
        stream.seek(0)
        if name is None:
            return set()
        need("av", f"is {name[1]}, which", "video")
        with suppress(AudioVQError), open_container(stream, *name) as container:
            streams = {"sound": bool(container.streams.audio), "images": images_of(container) is not None}
            return {name for name, is_there in streams.items() if is_there}
    return set()


def images_of(container: Any) -> Any:
    """The first stream of moving images; None where there is none."""
    from av.stream import Disposition

    cover = Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & cover), None)
