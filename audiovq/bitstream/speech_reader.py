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
from audiovq.speech.waveform import n_resampled

if TYPE_CHECKING:
    from audiovq.bitstream.entropy import EntropyCoder
    from audiovq.speech.codec import SpeechCodec


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
        damage: what was lost, in words, when damage was concealed.
        n_packets, n_frames: read or known to be lost so far, frames of each channel.
        n_payload_bytes: of the packets read so far.
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
        self.n_packets = self.n_frames = self.n_samples = self.n_model_samples = 0
        self.is_complete = False
        self.n_payload_bytes = 0
        self._rate, self._hop, self._codebook_size = 0, 0, 1 << self.header.code_bits
        self._coder: EntropyCoder | None = None
        self._skim = False

    @property
    def n_bytes(self) -> int:
        """Bytes consumed so far."""
        return self._container.n_bytes

    def expect(self, codec: SpeechCodec) -> None:
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
            and header.packet_frames == codec.packet_frames
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
        if not coder.can_code(header.n_codebooks, header.code_bits, header.speakers.shape[1], header.speaker_bits):
            raise AudioVQError(f"does not fit the entropy model of its model {header.model_hash.hex()}")
        self._coder, self.header = coder, header.resolve(coder)

    def packets(self, conceal: bool = False, skim: bool = False) -> Iterator[np.ndarray | LostSpeech | SkimmedSpeech]:
        """Codes (channels, K, F) in their order, with `LostSpeech` in the place of what is lost when ``conceal``.

        With ``skim`` there is `SkimmedSpeech` in the place of entropy-coded packets: it needs no `expect`.

        Raises:
            DamagedError: at the first damage, unless ``conceal``.
        """
        self._skim = skim
        gap: Gap | None = None
        try:
            for record in self._container.records(self.header.valid_length, conceal):
                if isinstance(record, Gap):
                    gap = gap or record  # what follows a gap before any packet adds nothing that is lost
                elif isinstance(record, End):
                    yield from self._finish(record, gap)
                    return
                else:
                    yield from self._lost(gap, self.header.packet_frames)
                    gap = None
                    yield self._unpack(record.payload, record.short, record.index)
        except DamagedError as error:
            raise self._in_seconds(error) from error
        # The end record is missing: what there is, to the end of its last frame.
        assert gap is not None
        self.damage.append(f"nothing can be read from {self._when(gap.first)} on")
        self.n_model_samples = self.n_frames * self._hop
        self.n_samples = self.n_model_samples * self.header.sample_rate // self._rate if self._rate else 0

    def _unpack(self, payload: bytes, short: bool, index: int) -> np.ndarray | SkimmedSpeech:
        if self.n_frames % self.header.packet_frames:
            raise DamagedError("it goes on behind its last packet", index)
        self.n_payload_bytes += len(payload)
        if self._skim and self.header.entropy_coded:
            n_frames = self.header.frames_of(payload, short)[0]
            self.n_packets, self.n_frames = index + 1, self.n_frames + n_frames
            return SkimmedSpeech(n_frames)
        codes = self.header.unpack(payload, short, self._coder)
        if codes.max() >= self._codebook_size:
            raise DamagedError("it has codes its model does not know", index)
        self.n_packets, self.n_frames = index + 1, self.n_frames + codes.shape[-1]
        return codes

    def _lost(self, gap: Gap | None, last_frames: int) -> Iterator[LostSpeech]:
        """Stand-ins for the packets of a gap; the last of them has ``last_frames``."""
        if gap is None:
            return
        assert gap.until is not None
        if gap.until == gap.first:
            self.damage.append(f"bytes that belong nowhere before {self._when(gap.first)}; no speech is lost")
        else:
            what = "packet" if gap.until == gap.first + 1 else f"{gap.until - gap.first} packets"
            self.damage.append(f"{self._when(gap.first)} to {self._when(gap.until)} is lost ({what})")
        for index in range(gap.first, gap.until):
            n_frames = last_frames if index == gap.until - 1 else self.header.packet_frames
            self.n_packets, self.n_frames = index + 1, self.n_frames + n_frames
            yield LostSpeech(n_frames)

    def _finish(self, end: End, gap: Gap | None) -> Iterator[LostSpeech]:
        n_samples = end.extent
        if self._rate:
            n_model_samples = n_resampled(n_samples, self.header.sample_rate, self._rate)
            n_frames = -(-n_model_samples // self._hop)
            n_full = max(end.n_packets - 1, 0) * self.header.packet_frames
            if not 1 <= n_frames - n_full <= self.header.packet_frames:
                raise DamagedError("its length does not fit its packets")
            yield from self._lost(gap, n_frames - n_full)
            if n_frames != self.n_frames:
                raise DamagedError("its length does not fit its packets")
            self.n_model_samples = n_model_samples
        else:
            yield from self._lost(gap, self.header.packet_frames)
        self.n_samples, self.is_complete = n_samples, True

    def _when(self, index: int) -> str:
        if not self._rate:
            return f"packet {index + 1}"
        return f"{index * self.header.packet_frames * self._hop / self._rate:.2f} s"

    def _in_seconds(self, error: DamagedError) -> DamagedError:
        """The same with the time range of the packet in its message."""
        if error.index is None:
            return error
        where = f"packet {error.index + 1}"
        if self._rate:
            where += f" ({self._when(error.index)} to {self._when(error.index + 1)})"
        return DamagedError(f"{error} at {where}; --conceal decodes the rest", error.index)
