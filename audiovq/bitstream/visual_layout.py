"""Images and videos in the container: sizes in the header, the codes of some frames in each packet.

An image is one packet of one frame. For each level of codes a packet holds an array (K, t, h, w), coarse to fine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from audiovq.bitstream.container import DamagedError, Header, frames_in
from audiovq.bitstream.entropy import (
    decode_varints,
    encode_varint,
    from_bytes,
    pack_bits,
    to_bytes,
    unpack_bits,
)
from audiovq.errors import AudioVQError

MEDIA_IMAGE, MEDIA_VIDEO = 2, 3
MEDIA_NAMES = {MEDIA_IMAGE: "image", MEDIA_VIDEO: "video"}
MAX_EDGE = 65_535
MAX_LEVELS = 8
MAX_CODEBOOKS = 64
MAX_BITS = 16
MAX_PACKET_FRAMES = 1024
MAX_RATE = (1 << 31) - 1
# A few bytes must not allocate gigabytes.
MAX_PACKET_CODES = 1 << 26
MAX_PACKET_PIXELS = 1 << 27  # of all frames: 16 of 4096 x 2048


@dataclass(frozen=True)
class CodeLevel:
    """``n_codebooks`` codes of ``bits`` each at ``height`` x ``width`` positions, for ``frames`` frames at a time."""

    n_codebooks: int
    bits: int
    frames: int
    height: int
    width: int

    def shape(self, n_frames: int) -> tuple[int, int, int, int]:
        """Shape of the codes of ``n_frames`` frames, (K, t, h, w)."""
        return self.n_codebooks, -(-n_frames // self.frames), self.height, self.width

    def n_codes(self, n_frames: int) -> int:
        """Number of codes of ``n_frames`` frames."""
        return prod(self.shape(n_frames))


@dataclass(frozen=True)
class VisualHeader:
    """The header of an image or a video.

    Raises:
        AudioVQError: for numbers outside the format's limits.
    """

    model_hash: bytes  # 4 bytes, identifier of the model that wrote the codes
    media: int  # `MEDIA_IMAGE` or `MEDIA_VIDEO`
    size: tuple[int, int]  # height and width in pixels
    packet_frames: int  # frames of a full packet; 1 for an image
    rate: tuple[int, int]  # frames per second, (numerator, denominator); (0, 1) for an image
    levels: tuple[CodeLevel, ...]  # coarse to fine

    def __post_init__(self) -> None:
        moving = self.media == MEDIA_VIDEO
        checks = [
            ("height", self.size[0], 1, MAX_EDGE),
            ("width", self.size[1], 1, MAX_EDGE),
            ("frames of a packet", self.packet_frames, 1, MAX_PACKET_FRAMES if moving else 1),
            ("frame rate's numerator", self.rate[0], 1 if moving else 0, MAX_RATE if moving else 0),
            ("frame rate's denominator", self.rate[1], 1, MAX_RATE if moving else 1),
            ("number of levels", len(self.levels), 1, MAX_LEVELS),
        ]
        for level in self.levels:
            checks += [
                ("number of codebooks", level.n_codebooks, 1, MAX_CODEBOOKS),
                ("bits of a code", level.bits, 1, MAX_BITS),
                ("frames of a code", level.frames, 1, self.packet_frames),
                ("rows of codes", level.height, 1, MAX_EDGE),
                ("columns of codes", level.width, 1, MAX_EDGE),
            ]
        checks.append(("number of codes in a packet", self._n_codes(self.packet_frames), 1, MAX_PACKET_CODES))
        checks.append(("number of pixels in a packet", prod(self.size) * self.packet_frames, 1, MAX_PACKET_PIXELS))
        for what, value, low, high in checks:
            if not low <= value <= high:
                raise AudioVQError(f"{what} is {value}; the format has {low} to {high}")

    def to_container(self) -> Header:
        """The container's header with this one inside."""
        numbers = [*self.size, self.packet_frames, *(self.rate if self.media == MEDIA_VIDEO else ()), len(self.levels)]
        for level in self.levels:
            numbers += [level.n_codebooks, level.bits, level.frames, level.height, level.width]
        return Header(self.media, self.model_hash, b"".join(encode_varint(n) for n in numbers))

    @classmethod
    def from_container(cls, header: Header) -> VisualHeader:
        """Inverse of `to_container`.

        Raises:
            AudioVQError: for another media type, or numbers outside the format's limits.
        """
        if header.media not in MEDIA_NAMES:
            raise AudioVQError(f"it holds media of type {header.media}, neither an image (2) nor a video (3)")
        if header.flags:
            raise AudioVQError(f"it has features (flags {header.flags:#x}) that images do not have; update audiovq")
        found = decode_varints(header.body)
        if found is None:
            raise DamagedError("its header is damaged")
        numbers = found[0]
        fixed = 6 if header.media == MEDIA_VIDEO else 4
        if len(numbers) < fixed or len(numbers) != fixed + 5 * numbers[fixed - 1]:
            raise DamagedError("its header is damaged")
        rate = (numbers[3], numbers[4]) if header.media == MEDIA_VIDEO else (0, 1)
        levels = tuple(CodeLevel(*numbers[i : i + 5]) for i in range(fixed, len(numbers), 5))
        return cls(header.model_hash, header.media, (numbers[0], numbers[1]), numbers[2], rate, levels)

    def valid_length(self, length: int, short: bool) -> bool:
        """Whether a packet's payload may have so many bytes."""
        return 1 < length <= self._full_length + 2 if short else length == self._full_length

    def pack(self, codes: tuple[np.ndarray, ...], n_frames: int) -> tuple[bytes, bool]:
        """Codes of ``n_frames`` frames, one (K, t, h, w) for each level -> payload, and whether it is short."""
        if [c.shape for c in codes] != [level.shape(n_frames) for level in self.levels]:
            raise ValueError(f"codes {[c.shape for c in codes]} do not fit the header")
        bits = [pack_bits(c, level.bits) for c, level in zip(codes, self.levels, strict=True)]
        short = n_frames < self.packet_frames
        return (encode_varint(n_frames) if short else b"") + to_bytes(*bits), short

    def unpack(self, payload: bytes, short: bool) -> tuple[tuple[np.ndarray, ...], int]:
        """Inverse of `pack` -> codes, int64, and the number of frames.

        Raises:
            DamagedError: for a payload whose size does not fit what it holds, or padded with other bits than zeros.
        """
        n_frames, start = frames_in(payload, short, self.packet_frames)
        stream = from_bytes(payload[start:])
        ends = np.cumsum([level.n_codes(n_frames) * level.bits for level in self.levels])
        if len(stream) != -(-ends[-1] // 8) * 8 or stream[ends[-1] :].any():
            raise DamagedError("a packet has an impossible size")
        parts = np.split(stream[: ends[-1]], ends[:-1])
        pairs = zip(parts, self.levels, strict=True)
        return tuple(unpack_bits(part, level.bits).reshape(level.shape(n_frames)) for part, level in pairs), n_frames

    def _n_codes(self, n_frames: int) -> int:
        # Levels whose numbers are out of bounds are reported by the checks before this one.
        return sum(level.n_codes(n_frames) if level.frames > 0 else 0 for level in self.levels)

    @cached_property
    def _full_length(self) -> int:
        return -(-sum(level.n_codes(self.packet_frames) * level.bits for level in self.levels) // 8)
