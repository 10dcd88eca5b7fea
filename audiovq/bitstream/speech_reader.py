"""Reading a speech file: packets in order, what is lost in seconds, and how long the whole is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.bitstream.container import ContainerReader, DamagedError, End, Gap
from audiovq.bitstream.entropy import coder_for
from audiovq.bitstream.entropy_model import FILE_NAME
from audiovq.bitstream.speech_layout import SpeechHeader
from audiovq.errors import AudioVQError
from audiovq.interfaces import Packet
from audiovq.media.waveform import n_resampled
from audiovq.pitch_scale import N_VALUES

if TYPE_CHECKING:
    from audiovq.bitstream.entropy import EntropyCoder
    from audiovq.interfaces import Codec


_LOOK_BEHIND = 1 << 16
"""Bytes behind damage in which the next good packet is looked for, to tell how far it reaches."""


@dataclass(frozen=True)
class LostSpeech:
    """A packet that is lost, all channels of it."""

    n_frames: int


@dataclass(frozen=True)
class SkimmedSpeech:
    """A packet that is there, whose codes were not asked for."""

    n_frames: int


class SpeechReader:
    """Read the header at once, the rest packet by packet.

    Args:
        stream: anything with ``read``.

    Attributes:
        header: the file's header; its speakers may be known only after `expect` or `use`.
        damage: what was lost, in words.
        lost_seconds: from where to where speech is lost, where the model's rate is known.
        n_good, n_good_frames: packets that are there and whole, and their frames.
        n_packets, n_frames: read or known to be lost so far, frames of each channel.
        n_payload_bytes: of the packets read so far.
        n_side_bytes: of these, what pitch and level take.
        pitch: how often each pitch code was read, (N_VALUES + 1,).
        n_samples: of each channel at the source's rate; known when all packets are out.
        n_model_samples: the same at the model's rate.
        is_complete: whether the end record was found.

    Raises:
        AudioVQError: for a file that is not speech, and a header that is damaged or of a newer format.
    """

    def __init__(self, stream: Any) -> None:
        self._container = ContainerReader(stream)
        self.header = SpeechHeader.from_container(self._container.header)
        self.damage: list[str] = []
        self.lost_seconds: list[tuple[float, float]] = []
        self.n_good = self.n_good_frames = 0
        self.n_packets = self.n_frames = self.n_samples = self.n_model_samples = 0
        self.is_complete = False
        self.n_payload_bytes = self.n_side_bytes = 0
        self.pitch = np.zeros(N_VALUES + 1, np.int64)
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
        )
        if not fits:
            raise AudioVQError(f"does not fit its model {codec.name}: other codebooks or packets")
        self._rate, self._hop, self._codebook_size = codec.sample_rate, codec.hop_length, codec.codebook_size
        if header.entropy_coded:
            coder = coder_for(codec)
            if coder is None:
                raise AudioVQError(
                    f"is entropy-coded, but model {codec.name} has no {FILE_NAME} that fits it; install the model again"
                )
            self.use(coder)

    def use(self, coder: EntropyCoder) -> None:
        """Read entropy-coded parts with ``coder``.

        Raises:
            AudioVQError: when it cannot read them.
        """
        header = self.header
        sizes = (header.n_codebooks, header.code_bits, header.speakers.shape[1], header.speaker_bits)
        if not coder.can_code(*sizes):
            raise AudioVQError(f"does not fit the entropy model of its model {header.model_hash.hex()}")
        self._coder, self.header = coder, header.resolve(coder)

    def use_clock(self, sample_rate: int, hop_length: int) -> None:
        """Tell places in seconds, for a model of this rate and hop: `expect` knows them itself."""
        self._rate, self._hop = sample_rate, hop_length

    def packets(self, conceal: bool = False, skim: bool = False) -> Iterator[list[Packet] | LostSpeech | SkimmedSpeech]:
        """Packets of all channels in their order, with `LostSpeech` in the place of what is lost when ``conceal``.

        With ``skim`` there is `SkimmedSpeech` in the place of entropy-coded packets: it needs no `expect`.

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
                    yield packets
        except DamagedError as error:
            raise self._in_seconds(error) from error
        # The end record is missing: what there is, to the end of its last frame.
        assert gap is not None
        self._tell(self._cut_off(gap), gap, conceal, self.n_good > 0)
        self.n_model_samples = self.n_frames * self._hop
        self.n_samples = self.n_model_samples * self.header.sample_rate // self._rate if self._rate else 0

    def _unpack(self, payload: bytes, short: bool, index: int) -> list[Packet] | SkimmedSpeech:
        if self.n_frames % self.header.packet_frames:
            raise DamagedError("it goes on behind its last packet", index)
        self.n_payload_bytes += len(payload)
        n_frames, start = self.header.frames_of(payload, short)
        _, tracks, end = self.header.unpack_side(payload, start, n_frames)
        self.n_side_bytes += end - start
        self.pitch += np.bincount(np.ravel(tracks), minlength=len(self.pitch))
        if self._skim and self.header.entropy_coded:
            self.n_packets, self.n_frames = index + 1, self.n_frames + n_frames
            return SkimmedSpeech(n_frames)
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
        """Note damage, or end at it.

        Raises:
            DamagedError: unless ``conceal``.
        """
        self.damage.append(text)
        if not conceal:
            hint = "; --conceal decodes the rest" if decodable else ""
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
