"""Speech in the container: who speaks in the header, what is said in the packets, and the code of pitch tracks.

Arrays have one row per channel: speakers (channels, S), codes of a packet (channels, K, F). A channel that equals the
one before it is stored as a single bit, so that two equal channels cost no more than one. The other rows are
bit-packed, or entropy-coded where that is shorter. Pitch tracks have fixed integer probabilities of each frame's code
given the ones before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from audiovq.bitstream.container import FLAG_ENTROPY_CODED, FLAG_PITCH, MEDIA_SPEECH, DamagedError, Header, frames_in
from audiovq.bitstream.entropy import (
    decode_varint,
    decode_varints,
    encode_varint,
    pack_rows,
    rows_are_coded,
    seal,
    to_words,
    unpack_rows,
    whole_categorical,
)
from audiovq.errors import AudioVQError
from audiovq.interfaces import N_VALUES, Packet
from audiovq.media.waveform import MAX_CHANNELS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE

if TYPE_CHECKING:
    from audiovq.bitstream.entropy import EntropyCoder


MAX_CODEBOOKS = 64
MAX_BITS = 16
MAX_PACKET_FRAMES = 10_000
MAX_SPEAKER_SIZE = 255
REPEATED = 255
"""Stands for the level of a channel whose level and pitch are those of the channel before."""
MAX_PACKET_CODES = 1 << 22  # of all channels: a few bytes must not ask for gigabytes


@dataclass(frozen=True)
class SpeechHeader:
    """The header of a speech file."""

    model_hash: bytes  # 4 bytes, which model wrote the codes
    sample_rate: int  # of the source, Hz
    n_codebooks: int
    code_bits: int
    packet_frames: int  # of a full packet
    speakers: np.ndarray  # quantized speaker vectors, (channels, S) int64; -1 while they are not known, see `resolve`
    speaker_bits: int  # of each value
    entropy_coded: bool = False  # rows may be entropy-coded
    entropy_id: bytes = b""  # 2 bytes, by which entropy model; empty when not
    coded_speakers: bytes | None = None  # the rows of speakers that are not known yet, as the file has them

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

    def to_container(self, coder: EntropyCoder | None = None) -> Header:
        """The container's header with this one inside; ``coder`` makes it shorter where it is entropy-coded."""
        channels, size = self.speakers.shape
        numbers = (self.n_codebooks, self.code_bits, self.packet_frames, size, self.speaker_bits)
        body = b"".join(encode_varint(n) for n in (self.sample_rate, channels, *numbers)) + self.entropy_id
        rows = self.coded_speakers
        if rows is None:
            encode = coder.encode_speakers if coder is not None and self.entropy_coded else None
            rows = pack_rows(self.speakers, self.speaker_bits, encode)
        return Header(MEDIA_SPEECH, self.model_hash, body + rows, FLAG_ENTROPY_CODED * self.entropy_coded | FLAG_PITCH)

    @classmethod
    def from_container(cls, header: Header) -> SpeechHeader:
        """Inverse of `to_container`.

        Raises:
            AudioVQError: for another media type, a file of version 0.1, or numbers outside the format's limits.
        """
        if header.media != MEDIA_SPEECH:
            raise AudioVQError(f"it holds media of type {header.media}, not speech (1)")
        if not header.flags & FLAG_PITCH:
            raise AudioVQError("was written by audiovq 0.1, whose models have no coded pitch: audiovq 0.1 reads it")
        numbers = decode_varints(header.body, 7)
        if numbers is None:
            raise DamagedError("its header is damaged")
        (rate, channels, books, code_bits, frames, size, speaker_bits), position = numbers
        # Limits first: an array must not be made by a number nobody has checked.
        if not (1 <= channels <= MAX_CHANNELS and 1 <= size <= MAX_SPEAKER_SIZE and 1 <= speaker_bits <= MAX_BITS):
            raise DamagedError("its header is damaged")
        coded = bool(header.flags & FLAG_ENTROPY_CODED)
        entropy_id, data = header.body[position : position + 2 * coded], header.body[position + 2 * coded :]
        numbers_of = (rate, books, code_bits, frames, np.full((channels, size), -1, np.int64), speaker_bits)
        found_header = cls(header.model_hash, *numbers_of, coded, entropy_id, data)
        if coded and rows_are_coded(data, channels, size, speaker_bits):
            return found_header
        rows = unpack_rows(data, channels, (size,), speaker_bits)
        if rows is None:
            raise DamagedError("its header is damaged")
        return replace(found_header, speakers=rows, coded_speakers=None)

    def resolve(self, coder: EntropyCoder) -> SpeechHeader:
        """The same with its speakers known.

        Raises:
            DamagedError: for coded speakers that are none.
            AudioVQError: for another entropy model than the one that coded them.
        """
        if coder.model.identity != self.entropy_id:
            raise AudioVQError(
                f"was coded with entropy model {self.entropy_id.hex()} of model {self.model_hash.hex()}, "
                f"not with {coder.model.identity.hex()}; name the model it came from with --model"
            )
        if self.coded_speakers is None:
            return self
        shape = self.speakers.shape[1:]

        rows = unpack_rows(self.coded_speakers, self.n_channels, shape, self.speaker_bits, coder.decode_speakers)
        if rows is None:
            raise DamagedError("its header is damaged")
        return replace(self, speakers=rows, coded_speakers=None)

    @cached_property
    def _packed_lengths(self) -> tuple[int, int]:
        """Bytes of a full packet's rows without entropy coding: of equal channels, and of channels that all differ."""
        bits = self.n_codebooks * self.packet_frames * self.code_bits
        least, most = (-(-(self.n_channels - 1 + m * bits) // 8) for m in (1, self.n_channels))
        return least, most

    @cached_property
    def smallest_payload(self) -> int:
        """The fewest bytes that a full packet's payload can have."""
        rows = 1 if self.entropy_coded else self._packed_lengths[0]
        return rows + self.n_channels + 1

    def valid_length(self, length: int, short: bool) -> bool:
        """Whether a packet's payload may have so many bytes."""
        side = self.n_channels * (1 + 3 * self.packet_frames) + 4
        return short < length <= self._packed_lengths[1] + 2 * short + side

    def pack(self, packets: Sequence[Packet], coder: EntropyCoder | None = None) -> tuple[bytes, bool]:
        """A packet of each channel -> payload, and whether it is short (fewer frames than a full packet).

        ``coder`` makes it shorter in an entropy-coded file.
        """
        codes = np.stack([packet.codes for packet in packets])
        n_frames = codes.shape[-1]
        if codes.shape[:2] != (self.n_channels, self.n_codebooks) or not 1 <= n_frames <= self.packet_frames:
            raise ValueError(f"codes {codes.shape} do not fit the header")
        short = n_frames < self.packet_frames
        encode = coder.encode_codes if coder is not None and self.entropy_coded else None
        side = (encode_varint(n_frames) if short else b"") + pack_side(packets)
        return side + pack_rows(codes, self.code_bits, encode, voicing_of([packet.pitch for packet in packets])), short

    def unpack(self, payload: bytes, short: bool, coder: EntropyCoder | None = None) -> list[Packet]:
        """Inverse of `pack`: a packet of each channel.

        Raises:
            DamagedError: for a payload whose size does not fit what it holds.
            AudioVQError: for an entropy-coded packet without ``coder``.
        """
        n_frames, start = frames_in(payload, short, self.packet_frames)
        levels, pitch, start = self.unpack_side(payload, start, n_frames)
        data, shape = payload[start:], (self.n_codebooks, n_frames)
        decode = None
        if self.entropy_coded and rows_are_coded(data, self.n_channels, self.n_codebooks * n_frames, self.code_bits):
            if coder is None:
                raise AudioVQError("its packets are entropy-coded: they are read with the model that wrote them")
            decode = coder.decode_codes
        codes = unpack_rows(data, self.n_channels, shape, self.code_bits, decode, voicing_of(pitch))
        if codes is None:
            raise DamagedError("a packet has an impossible size")
        return [Packet(*parts) for parts in zip(codes, pitch, levels, strict=True)]

    def unpack_side(self, payload: bytes, start: int, n_frames: int) -> tuple[list[int], np.ndarray, int]:
        """Level codes and pitch (channels, F) from position ``start`` on, and the position behind them.

        Raises:
            DamagedError: for pitch tracks that are none.
        """
        place = start + self.n_channels
        levels = list(payload[start:place])
        own = [level != REPEATED for level in levels]
        try:
            length = decode_varint(payload, place)
        except ValueError:
            length = None
        if length is None or not own[0]:
            raise DamagedError("a packet has an impossible size")
        size, place = length
        coded = payload[place : place + size]
        tracks = decode_pitch(coded, sum(own), n_frames) if len(coded) == size else None
        if tracks is None:
            raise DamagedError("a packet has a damaged pitch track")
        source = np.cumsum(own) - 1
        levels = [level for level in levels if level != REPEATED]
        return [levels[i] for i in source], tracks[source], place + size


def voicing_of(tracks: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Which frames are voiced, (channels, F) uint8, by pitch codes of each channel.

    Moving a pitch leaves it as it is, so that codes stay readable whose probabilities depend on it.
    """
    return np.stack([(track > 0).astype(np.uint8) for track in tracks])


def pack_side(packets: Sequence[Packet]) -> bytes:
    """Levels and pitch of a packet of each channel; those of a channel that repeats the one before take a byte."""
    levels, tracks = [packets[0].level], [packets[0].pitch]
    for before, packet in pairwise(packets):
        if packet.level == before.level and np.array_equal(packet.pitch, before.pitch):
            levels.append(REPEATED)
        else:
            levels.append(packet.level)
            tracks.append(packet.pitch)
    coded = encode_pitch(np.stack(tracks))
    return bytes(levels) + encode_varint(len(coded)) + coded


REACH = 24
"""Steps that the tables reach to either side; what lies further shares their last weights."""
# Fitted by recipes/pitch_tracker/fit_code.py: probabilities in units of 1/4096.
BEGINS = 603
ENDS = 494
# fmt: off
STEPS = [
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 5, 9, 16, 28, 50, 89, 162, 292, 509, 801, 893, 564, 292, 156, 86,
    50, 31, 19, 11, 8, 5, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2,
]
ONSETS = [
    168, 18, 19, 23, 24, 27, 30, 33, 39, 43, 45, 51, 56, 62, 66, 66, 80, 81, 87, 97, 106, 127, 146, 184, 218, 203,
    175, 146, 136, 122, 117, 108, 101, 95, 87, 81, 75, 71, 63, 57, 54, 49, 46, 40, 38, 37, 29, 27, 244,
]
FIRST = [
    1, 8, 92, 603, 716, 683, 1242, 650, 88, 12, 1,
]
# fmt: on
_TOTAL = 1 << 24


def predicted(before: int, last: int) -> int:
    """The code expected after ``before, last``: half of the last step is made again."""
    step = last - before if before and abs(last - before) <= 12 else 0
    return last + (step // 2 if step >= 0 else -(-step // 2))


@cache
def _weights(state: int, centre: int) -> np.ndarray:
    """Weights (N_VALUES + 1,) float32 of the next code, whole numbers for `whole_categorical`.

    Args:
        state: 2 after a voiced frame, 1 after an unvoiced one with a voiced one before it, 0 at the beginning.
        centre: the code that is expected where the frame is voiced.
    """
    voiced_share = 4096 - ENDS if state == 2 else BEGINS
    offsets = np.clip(np.arange(1, N_VALUES + 1) - centre, -REACH, REACH) + REACH
    if state == 0:
        shape = np.array(FIRST, np.int64)[np.arange(N_VALUES) // 16]
    else:
        shape = np.array(STEPS if state == 2 else ONSETS, np.int64)[offsets]
    room = _TOTAL - (N_VALUES + 1)
    voiced = shape * (room * voiced_share // 4096) // shape.sum()
    return np.concatenate([[room - voiced.sum()], voiced]).astype(np.float32)


class _Context:
    """What the codes so far say of the next one."""

    def __init__(self) -> None:
        self.state, self.before, self.last = 0, 0, 0

    def weights(self) -> np.ndarray:
        centre = predicted(self.before, self.last) if self.state == 2 else self.last
        return _weights(self.state, min(max(centre, 1), N_VALUES) if self.state else 0)

    def update(self, code: int) -> None:
        if code:
            self.before = self.last if self.state == 2 else 0
            self.state, self.last = 2, code
        elif self.state:
            self.state = 1


def encode_pitch(tracks: np.ndarray) -> bytes:
    """Tracks (R, F) of pitch codes -> bytes; each is coded on its own."""
    from constriction import stream

    rows = []
    for track in tracks:
        context = _Context()
        for code in track.tolist():
            rows.append(context.weights())
            context.update(code)
    encoder = stream.queue.RangeEncoder()
    encoder.encode(np.ascontiguousarray(tracks.reshape(-1), np.int32), whole_categorical(), np.stack(rows))
    return seal(encoder)


def decode_pitch(data: bytes, n_tracks: int, n_frames: int) -> np.ndarray | None:
    """Inverse of `encode_pitch` -> (R, F) int64; None where the bytes are no tracks."""
    from constriction import stream

    decoder, family = stream.queue.RangeDecoder(to_words(data)), whole_categorical()
    tracks = np.zeros((n_tracks, n_frames), np.int64)
    try:
        for track in tracks:
            context = _Context()
            for i in range(n_frames):
                track[i] = int(decoder.decode(family, context.weights()[None])[0])
                context.update(int(track[i]))
    except AssertionError:  # what the library raises where no symbol fits
        return None
    return tracks


def pitch_bits(track: np.ndarray) -> float:
    """Ideal length of a track (F,) in bits."""
    context, bits = _Context(), 0.0
    for code in track.tolist():
        bits -= float(np.log2((context.weights()[code] + 1) / _TOTAL))
        context.update(code)
    return bits
