"""Reading a speech file: packets in order, what is lost in seconds, and what the file says without its model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.bitstream.container import VERSION, ContainerReader, DamagedError, End, Gap, frames_in
from audiovq.bitstream.entropy import coder_for
from audiovq.bitstream.entropy_model import FILE_NAME
from audiovq.bitstream.speech_layout import SpeechHeader
from audiovq.errors import AudioVQError
from audiovq.interfaces import LOWEST_HZ, N_VALUES, STEPS_PER_OCTAVE, Packet
from audiovq.io import Place, describe, errors_about, open_input, size_of
from audiovq.media.waveform import n_resampled

if TYPE_CHECKING:
    from audiovq.bitstream.entropy import EntropyCoder
    from audiovq.interfaces import Codec


_LOOK_BEHIND = 1 << 16
"""Bytes behind damage in which the next good packet is looked for, to tell how far it reaches."""


@dataclass(frozen=True)
class LostSpeech:
    """A packet that is lost, all channels of it."""

    n_frames: int


class SpeechReader:
    """Read the header of a stream (anything with ``read``) at once, the rest packet by packet.

    Raises:
        AudioVQError: for a file that is not speech, and a header that is damaged or of a newer format.
    """

    def __init__(self, stream: Any) -> None:
        self._container = ContainerReader(stream)
        #: The file's header; its speakers may be known only after `expect` or `use`.
        self.header = SpeechHeader.from_container(self._container.header)
        self.damage: list[str] = []  # what was lost, in words
        self.remedy = "--conceal decodes the rest"  # what errors about damage advise
        self.lost_seconds: list[tuple[float, float]] = []  # from where to where, where the model's rate is known
        self.n_good = self.n_good_frames = 0  # packets that are there and whole, and their frames
        self.n_packets = self.n_frames = 0  # read or known to be lost so far, frames of each channel
        #: Samples of each channel at the source's rate and at the model's; known when all packets are out.
        self.n_samples = self.n_model_samples = 0
        self.is_complete = False  # whether the end record was found
        self.n_payload_bytes = self.n_side_bytes = 0  # of packets read, and of these pitch and level
        self.pitch = np.zeros(N_VALUES + 1, np.int64)  # how often each pitch code was read
        self._rate, self._hop, self._codebook_size = 0, 0, 1 << self.header.code_bits
        self._coder: EntropyCoder | None = None
        self._skim = False

    @property
    def n_bytes(self) -> int:
        """Bytes consumed so far."""
        return self._container.n_bytes

    def expect(self, codec: Codec) -> None:
        """See that ``codec`` is the model that wrote the file; from then on damage is told in seconds.

        Raises:
            AudioVQError: for another model.
        """
        header = self.header
        if header.model_hash != codec.model_hash:
            raise AudioVQError(
                f"was written by model {header.model_hash.hex()}, not by {codec.name} ({codec.model_hash.hex()}); "
                "name the right one with --model"
            )
        fits = (
            header.n_codebooks <= codec.n_codebooks
            and header.code_bits == (codec.codebook_size - 1).bit_length()
            and header.packet_frames <= codec.packet_frames
            and header.speakers.shape[1] == codec.shape.speaker_dim
            and header.speaker_bits == codec.speaker_bits
        )
        if not fits:
            raise AudioVQError(f"does not fit its model {codec.name}: other codebooks, packets or speaker vectors")
        self._rate, self._hop, self._codebook_size = codec.sample_rate, codec.hop_length, codec.codebook_size
        if header.entropy_coded:
            coder = coder_for(codec)
            if coder is None:
                raise AudioVQError(
                    f"is entropy-coded, but model {codec.name} has no {FILE_NAME} that fits it; install the model again"
                )
            self.use(coder)

    def use(self, coder: EntropyCoder) -> None:
        """Read entropy-coded parts with ``coder``. Raises `AudioVQError` when it cannot read them."""
        header = self.header
        sizes = (header.n_codebooks, header.code_bits, header.speakers.shape[1], header.speaker_bits)
        if not coder.can_code(*sizes):
            raise AudioVQError(f"does not fit the entropy model of its model {header.model_hash.hex()}")
        self._coder, self.header = coder, header.resolve(coder)

    def use_clock(self, sample_rate: int, hop_length: int) -> None:
        """Tell places in seconds, for a model of this rate and hop: `expect` knows them itself."""
        self._rate, self._hop = sample_rate, hop_length

    def packets(self, conceal: bool = False, skim: bool = False) -> Iterator[list[Packet] | LostSpeech]:
        """Packets of all channels in their order, with `LostSpeech` in the place of what is lost when ``conceal``.

        With ``skim`` entropy-coded packets are counted alone: it needs no `expect`.

        Raises:
            DamagedError: at the first damage, unless ``conceal``.
        """
        self._skim = skim
        reach = {} if conceal else {"reach": _LOOK_BEHIND}
        valid, smallest = self.header.valid_length, self.header.smallest_payload
        gap: Gap | None = None
        try:
            for record in self._container.records(valid, conceal=True, smallest=smallest, **reach):
                if isinstance(record, Gap):
                    gap = gap or record  # what follows a gap before any packet adds nothing that is lost
                elif isinstance(record, End):
                    yield from self._finish(record, gap, conceal)
                    return
                else:
                    yield from self._lost(gap, self.header.packet_frames, conceal, decodable=True)
                    gap = None
                    before = self.n_frames
                    packets = self._unpack(record.payload, record.short, record.index)
                    self.n_good, self.n_good_frames = self.n_good + 1, self.n_good_frames + self.n_frames - before
                    if packets is not None:
                        yield packets
        except DamagedError as error:
            raise self._in_seconds(error) from error
        # The end record is missing: what there is, to the end of its last frame.
        assert gap is not None
        self._tell(self._cut_off(gap), gap, conceal, self.n_good > 0)
        self.n_model_samples = self.n_frames * self._hop
        self.n_samples = self.n_model_samples * self.header.sample_rate // self._rate if self._rate else 0

    def _unpack(self, payload: bytes, short: bool, index: int) -> list[Packet] | None:
        if self.n_frames % self.header.packet_frames:
            raise DamagedError("it goes on behind its last packet", index)
        self.n_payload_bytes += len(payload)
        n_frames, start = frames_in(payload, short, self.header.packet_frames)
        _, tracks, end = self.header.unpack_side(payload, start, n_frames)
        self.n_side_bytes += end - start
        self.pitch += np.bincount(np.ravel(tracks), minlength=len(self.pitch))
        if self._skim and self.header.entropy_coded:
            self.n_packets, self.n_frames = index + 1, self.n_frames + n_frames
            return None
        packets = self.header.unpack(payload, short, self._coder)
        if max(int(packet.codes.max()) for packet in packets) >= self._codebook_size:
            raise DamagedError("it has codes its model does not know", index)
        self.n_packets, self.n_frames = index + 1, self.n_frames + packets[0].n_frames
        return packets

    def _lost(
        self, gap: Gap | None, last_frames: int, conceal: bool, decodable: bool, total: int | None = None
    ) -> Iterator[LostSpeech]:
        """Stand-ins for the packets of a gap; the last of them has ``last_frames``. ``total``: model samples, known."""
        if gap is None:
            return
        assert gap.until is not None
        if gap.behind:
            text = "there is more data behind its end; was something appended to it?"
        elif gap.until == gap.first:
            text = f"bytes that belong nowhere before {self._when(gap.first)}; no speech is lost"
        else:
            text = f"{self._range(gap.first, gap.until, total)} lost"
        self._tell(text, gap, conceal, decodable)
        for index in range(gap.first, gap.until):
            n_frames = last_frames if index == gap.until - 1 else self.header.packet_frames
            self.n_packets, self.n_frames = index + 1, self.n_frames + n_frames
            yield LostSpeech(n_frames)

    def _finish(self, end: End, gap: Gap | None, conceal: bool) -> Iterator[LostSpeech]:
        n_samples, good = end.extent, self.n_good > 0
        if self._rate:
            n_model_samples = n_resampled(n_samples, self.header.sample_rate, self._rate)
            n_frames = -(-n_model_samples // self._hop)
            n_full = max(end.n_packets - 1, 0) * self.header.packet_frames
            if not 1 <= n_frames - n_full <= self.header.packet_frames:
                raise DamagedError("its length does not fit its packets")
            yield from self._lost(gap, n_frames - n_full, conceal, good, n_model_samples)
            if n_frames != self.n_frames:
                raise DamagedError("its length does not fit its packets")
            self.n_model_samples = n_model_samples
        else:
            yield from self._lost(gap, self.header.packet_frames, conceal, good)
        self.n_samples, self.is_complete = n_samples, True

    def _tell(self, text: str, gap: Gap, conceal: bool, decodable: bool) -> None:
        """Note damage, or end at it. Raises `DamagedError` unless ``conceal``."""
        self.damage.append(text)
        if not conceal:
            hint = f"; {self.remedy}" if decodable else ""
            raise DamagedError(f"{text}{hint}" if gap.behind else f"it is damaged: {text}{hint}", gap.first)

    def _cut_off(self, gap: Gap) -> str:
        """What there is to say when nothing good follows."""
        if not self.n_good:
            return "it is cut off or altered before any of its speech"
        if gap.at_end or self.n_frames % self.header.packet_frames:
            here = f"speech is there up to {self._seconds(self.n_frames * self._hop)}" if self._rate else "packets are"
            return f"its end record is cut off or altered; {here}" + ("" if self._rate else " there")
        return f"cut off or altered from {self._when(gap.first)} on"

    def _seconds(self, n_model_samples: int) -> str:
        return f"{n_model_samples / self._rate:.2f} s"

    def _when(self, index: int) -> str:
        if not self._rate:
            return f"packet {index + 1}"
        return self._seconds(index * self.header.packet_frames * self._hop)

    def _range(self, first: int, until: int, total: int | None) -> str:
        """Where packets ``first`` to ``until - 1`` are, with the verb that follows."""
        if not self._rate:
            return f"packet {first + 1} is" if until == first + 1 else f"packets {first + 1} to {until} are"
        size = self.header.packet_frames * self._hop
        start, stop = first * size, until * size if total is None else min(until * size, total)
        self.lost_seconds.append((start / self._rate, stop / self._rate))
        return f"{self._seconds(start)} to {self._seconds(stop)} is"

    def _in_seconds(self, error: DamagedError) -> DamagedError:
        """The same with the place of the packet in its message."""
        if error.index is None or self.damage:
            return error
        return DamagedError(f"{error} in the packet at {self._when(error.index)}", error.index)


@dataclass
class FileInfo:
    """The facts of an .avq file.

    Attributes:
        model_hash: hexadecimal.
        sample_rate, channels, samples, seconds: of the source; samples of each channel. None while the end is missing.
        seconds_there: up to where packets reach; None without a clock.
        codebooks, bits_per_code, packet_frames: of each channel's codes.
        coding: "packed" or "entropy".
        coded_bits_per_code: what a code takes in the packets on the average; None while none is found.
        pitch_hz: 5th percentile, median and 95th percentile of the coded pitch; None without voiced frames.
        voiced: share of voiced frames.
        pitch_and_level_bps: bits a second that pitch and level take in each channel; None without a clock.
        packets, frames: found whole; frames of each channel.
        bytes: of the file.
        kbps: from the bytes, all channels together; None when some are missing.
        speakers: quantized speaker vectors, one list for each channel; None where they are entropy-coded and no model
            was at hand.
        damage: all that is wrong with it, in words; None when it is whole.
        lost_seconds: from where to where speech is lost; empty without a clock.
    """

    version: int
    media: str
    model_hash: str
    sample_rate: int
    channels: int
    codebooks: int
    bits_per_code: int
    packet_frames: int
    coding: str
    coded_bits_per_code: float | None
    pitch_hz: tuple[float, float, float] | None
    voiced: float
    pitch_and_level_bps: float | None
    packets: int
    frames: int
    samples: int | None
    seconds: float | None
    seconds_there: float | None
    bytes: int
    kbps: float | None
    speakers: list[list[int]] | None
    damage: str | None
    lost_seconds: list[tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def inspect_file(
    source: Place,
    coder_of: Callable[[bytes], EntropyCoder | None] | None = None,
    clock_of: Callable[[bytes], tuple[int, int] | None] | None = None,
) -> FileInfo:
    """Read a file through, checking all its checksums; behind damage it goes on with the next good packet.

    Args:
        source: a path, ``-`` for standard input, or a binary file object.
        coder_of: gives a model's entropy coder by the model's hash: it tells the speakers of entropy-coded files.
        clock_of: gives the sample rate and hop length of a model by its hash: damage is then told in seconds.

    Raises:
        AudioVQError: for a file whose header cannot be read; other damage is told in the result.
    """
    with errors_about(describe(source)), open_input(source) as stream:
        speech = SpeechReader(stream)
        if speech.header.entropy_coded and coder_of is not None:
            coder = coder_of(speech.header.model_hash)
            if coder is not None and coder.model.identity == speech.header.entropy_id:
                speech.use(coder)
        clock = clock_of(speech.header.model_hash) if clock_of is not None else None
        if clock is not None:
            speech.use_clock(*clock)
        try:
            for _ in speech.packets(conceal=True, skim=True):
                pass
        except DamagedError as error:
            speech.damage.append(str(error))
        n_bytes = size_of(stream) or speech.n_bytes
    return _found(speech, n_bytes, clock)


def _found(speech: SpeechReader, n_bytes: int, clock: tuple[int, int] | None) -> FileInfo:
    header, whole = speech.header, speech.is_complete
    seconds = speech.n_samples / header.sample_rate if whole else None
    n_codes = speech.n_good_frames * header.n_codebooks * header.n_channels
    seconds_read = 0.0 if clock is None else float(speech.pitch.sum()) * clock[1] / clock[0]
    return FileInfo(
        version=VERSION,
        media="speech",
        model_hash=header.model_hash.hex(),
        sample_rate=header.sample_rate,
        channels=header.n_channels,
        codebooks=header.n_codebooks,
        bits_per_code=header.code_bits,
        packet_frames=header.packet_frames,
        coding="entropy" if header.entropy_coded else "packed",
        coded_bits_per_code=8 * (speech.n_payload_bytes - speech.n_side_bytes) / n_codes if n_codes else None,
        pitch_hz=pitch_range(speech.pitch),
        voiced=float(speech.pitch[1:].sum() / max(speech.pitch.sum(), 1)),
        pitch_and_level_bps=8 * speech.n_side_bytes / seconds_read if seconds_read else None,
        packets=speech.n_good,
        frames=speech.n_good_frames,
        samples=speech.n_samples if whole else None,
        seconds=seconds,
        seconds_there=None if clock is None else speech.n_frames * clock[1] / clock[0],
        bytes=n_bytes,
        kbps=8 * n_bytes / seconds / 1000 if seconds and not speech.damage else None,
        speakers=None if header.coded_speakers else header.speakers.tolist(),
        damage="; ".join(speech.damage) or None,
        lost_seconds=speech.lost_seconds,
    )


def pitch_range(counts: np.ndarray) -> tuple[float, float, float] | None:
    """5th percentile, median and 95th percentile in Hz of pitch codes with such counts; None without voiced ones."""
    voiced = np.cumsum(counts[1:])
    if not voiced[-1]:
        return None
    codes = [int(np.searchsorted(voiced, share * voiced[-1])) for share in (0.05, 0.5, 0.95)]
    low, median, high = (LOWEST_HZ * 2 ** (code / STEPS_PER_OCTAVE) for code in codes)
    return low, median, high
