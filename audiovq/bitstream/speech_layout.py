"""What a speech file puts into the container: who speaks in the header, what is said in the packets.

Arrays have one row per channel: speakers (channels, S), codes of a packet (channels, K, F). A channel that equals the
one before it is stored as a single bit, so that two equal channels cost no more than one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from audiovq.bitstream.bits import decode_varint, encode_varint, from_bytes, pack_bits, to_bytes, unpack_bits
from audiovq.bitstream.container import MEDIA_SPEECH, DamagedError, Header
from audiovq.errors import AudioVQError

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1000, 768_000
MAX_CHANNELS = 255
MAX_CODEBOOKS = 64
MAX_BITS = 16
MAX_PACKET_FRAMES = 10_000
MAX_SPEAKER_SIZE = 255
MAX_PACKET_CODES = 1 << 22  # of all channels: a few bytes must not ask for gigabytes


@dataclass(frozen=True)
class SpeechHeader:
    """The header of a speech file.

    Attributes:
        model_hash: 4 bytes, which model wrote the codes.
        sample_rate: of the source, Hz.
        n_codebooks, code_bits: codebooks of each frame, and bits of each code.
        packet_frames: frames of a full packet.
        speakers: quantized speaker vectors, (channels, S) int64, each value of ``speaker_bits`` bits.
    """

    model_hash: bytes
    sample_rate: int
    n_codebooks: int
    code_bits: int
    packet_frames: int
    speakers: np.ndarray
    speaker_bits: int

    def __post_init__(self) -> None:
        channels, size = self.speakers.shape
        for what, value, low, high in (
            ("sample rate", self.sample_rate, MIN_SAMPLE_RATE, MAX_SAMPLE_RATE),
            ("number of channels", channels, 1, MAX_CHANNELS),
            ("number of codebooks", self.n_codebooks, 1, MAX_CODEBOOKS),
            ("bits of a code", self.code_bits, 1, MAX_BITS),
            ("frames of a packet", self.packet_frames, 1, MAX_PACKET_FRAMES),
            ("size of a speaker vector", size, 1, MAX_SPEAKER_SIZE),
            ("bits of a speaker value", self.speaker_bits, 1, MAX_BITS),
            ("number of codes in a packet", channels * self.n_codebooks * self.packet_frames, 1, MAX_PACKET_CODES),
        ):
            if not low <= value <= high:
                raise AudioVQError(f"{what} is {value}; the format has {low} to {high}")

    @property
    def n_channels(self) -> int:
        """Channels of the source."""
        return len(self.speakers)

    def to_container(self) -> Header:
        """The container's header with this one inside."""
        channels, size = self.speakers.shape
        numbers = (self.n_codebooks, self.code_bits, self.packet_frames, size, self.speaker_bits)
        body = b"".join(encode_varint(n) for n in (self.sample_rate, channels, *numbers))
        body += _pack_rows(self.speakers[:, None], self.speaker_bits)
        return Header(MEDIA_SPEECH, self.model_hash, body)

    @classmethod
    def from_container(cls, header: Header) -> SpeechHeader:
        """Inverse of `to_container`.

        Raises:
            AudioVQError: for another media type, or numbers outside the format's limits.
        """
        if header.media != MEDIA_SPEECH:
            raise AudioVQError(f"it holds media of type {header.media}, not speech (1)")
        numbers, position = [], 0
        for _ in range(7):
            try:
                found = decode_varint(header.body, position)
            except ValueError:
                found = None
            if found is None:
                raise DamagedError("its header is damaged")
            numbers.append(found[0])
            position = found[1]
        rate, channels, books, code_bits, frames, size, speaker_bits = numbers
        # Limits first: an array must not be made by a number nobody has checked.
        if not (1 <= channels <= MAX_CHANNELS and 1 <= size <= MAX_SPEAKER_SIZE and 1 <= speaker_bits <= MAX_BITS):
            raise DamagedError("its header is damaged")
        rows = _unpack_rows(header.body[position:], channels, 1, size, speaker_bits)
        if rows is None:
            raise DamagedError("its header is damaged")
        return cls(header.model_hash, rate, books, code_bits, frames, rows[:, 0], speaker_bits)

    @cached_property
    def _full_lengths(self) -> frozenset[int]:
        bits = self.n_codebooks * self.packet_frames * self.code_bits
        return frozenset(-(-(self.n_channels - 1 + m * bits) // 8) for m in range(1, self.n_channels + 1))

    def valid_length(self, length: int, short: bool) -> bool:
        """Whether a packet's payload may have so many bytes."""
        return 1 < length <= max(self._full_lengths) + 2 if short else length in self._full_lengths

    def pack(self, codes: np.ndarray) -> tuple[bytes, bool]:
        """Codes (channels, K, F) -> payload, and whether it is short (fewer frames than a full packet)."""
        n_frames = codes.shape[-1]
        if codes.shape[:2] != (self.n_channels, self.n_codebooks) or not 1 <= n_frames <= self.packet_frames:
            raise ValueError(f"codes {codes.shape} do not fit the header")
        short = n_frames < self.packet_frames
        return (encode_varint(n_frames) if short else b"") + _pack_rows(codes, self.code_bits), short

    def unpack(self, payload: bytes, short: bool) -> np.ndarray:
        """Inverse of `pack` -> codes (channels, K, F) int64.

        Raises:
            DamagedError: for a payload whose size does not fit what it holds.
        """
        n_frames, start = self.packet_frames, 0
        if short:
            try:
                found = decode_varint(payload)
            except ValueError:
                found = None
            if found is None or not 1 <= found[0] < self.packet_frames:
                raise DamagedError("a packet has an impossible number of frames")
            n_frames, start = found
        codes = _unpack_rows(payload[start:], self.n_channels, self.n_codebooks, n_frames, self.code_bits)
        if codes is None:
            raise DamagedError("a packet has an impossible size")
        return codes


def _pack_rows(rows: np.ndarray, bits: int) -> bytes:
    """(C, ...) -> for rows 1 to C-1 a bit "same as the row before", then every row that is not, bit-packed."""
    same = [np.array_equal(rows[i], rows[i - 1]) for i in range(1, len(rows))]
    streams = [np.array(same, np.uint8)]
    streams += [pack_bits(row, bits) for row, copied in zip(rows, [False, *same], strict=True) if not copied]
    return to_bytes(*streams)


def _unpack_rows(data: bytes, n_rows: int, n_codebooks: int, n_frames: int, bits: int) -> np.ndarray | None:
    """Inverse of `_pack_rows` -> (C, K, F) int64; None when the size is wrong or the filling bits are not zero."""
    stream = from_bytes(data)
    if len(stream) < n_rows - 1:
        return None
    same = stream[: n_rows - 1].astype(bool)
    each = n_codebooks * n_frames * bits
    used = n_rows - 1 + (n_rows - int(same.sum())) * each
    if len(data) != -(-used // 8) or stream[used:].any():
        return None
    values = unpack_bits(stream[n_rows - 1 : used], bits).reshape(-1, n_codebooks, n_frames)
    return values[np.cumsum(~np.concatenate([[False], same])) - 1]
