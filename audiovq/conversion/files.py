"""Other voices: an .avq file gets another speaker without being decoded, audio is spoken anew by another voice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from audiovq.bitstream.container import ContainerReader, ContainerWriter, End, Packet, frames_in, is_avq
from audiovq.bitstream.speech_file import CodingReport, Progress, decode_file, encode_file, model_blocks
from audiovq.bitstream.speech_layout import SpeechHeader, pack_side
from audiovq.conversion.pitch import Pitch, PitchMover, doubts
from audiovq.conversion.target import TargetVoice
from audiovq.errors import AudioVQError
from audiovq.interfaces import Codec
from audiovq.interfaces import Packet as SpeechPacket
from audiovq.io import Place, describe, errors_about, is_path, open_input, open_output
from audiovq.media.waveform import Resampler, create_audio, open_audio

if TYPE_CHECKING:
    from audiovq.interfaces import DecoderStream, EncoderStream
    from audiovq.media.samples import RawFormat


LIVE_ENCODER, LIVE_DECODER = 0.16, 0.08
"""Seconds that encoder and decoder look ahead in live conversion (`benchmarks/latency.py` shows what it costs)."""
OPENING_SECONDS = 10.0
"""Beginning of a source that is examined for noise, music and several speakers."""


@dataclass
class Conversion:
    """Conversion of one source to another speaker.

    Attributes:
        vector: the quantized speaker vector (S,) of the target.
        mover: moves the coded pitch.
        source: the quantized speaker vector (S,) of the source, where it is known beforehand.
        live: whether encoder and decoder look ahead no further than `LIVE_ENCODER` and `LIVE_DECODER`.
    """

    vector: np.ndarray
    mover: PitchMover
    source: np.ndarray | None = None
    live: bool = False
    _opening: list[np.ndarray] = field(default_factory=list)
    _n_opening: int = 0
    _sample_rate: int = 16000

    def encoder_stream(self, codec: Codec, n_codebooks: int | None, packet_frames: int | None) -> EncoderStream:
        """Code one channel of the source, see `SpeechCodec.encoder_stream`."""
        lookahead = round(LIVE_ENCODER * codec.frame_rate) if self.live else None
        return codec.encoder_stream(n_codebooks, packet_frames, self.source, lookahead)

    def decoder_stream(self, codec: Codec, decoder: str = "parallel") -> DecoderStream:
        """Decode one channel with the target's speaker vector, see `SpeechCodec.decoder_stream`."""
        lookahead = round(LIVE_DECODER * codec.frame_rate) if self.live else None
        return codec.decoder_stream(self.vector, decoder, lookahead=lookahead)

    def move(self, packets: Iterable[Sequence[SpeechPacket]], ended: bool = False) -> list[Sequence[SpeechPacket]]:
        """Rows of a packet for each channel -> those that are ready, their pitch moved; ``ended``: none follow."""
        moved: list[Sequence[SpeechPacket]] = [row for packet in packets for row in self.mover.push(packet)]
        return [*moved, *self.mover.finish()] if ended else moved

    def observe(self, samples: np.ndarray, sample_rate: int) -> None:
        """Keep the opening of the source, block (n, channels) by block, for `remarks`."""
        self._sample_rate = sample_rate
        wanted = round(OPENING_SECONDS * sample_rate) - self._n_opening
        if wanted > 0:
            self._opening.append(samples[:wanted].mean(axis=1))
            self._n_opening += len(self._opening[-1])

    def remarks(self) -> list[str]:
        """Warnings about the source."""
        if self._opening and (why := doubts(np.concatenate(self._opening), self._sample_rate)):
            return [f"warning: it has {why}; conversion expects clear speech of one speaker"]
        return []


def make_conversion(
    voice: TargetVoice, pitch: Pitch = "auto", source: TargetVoice | None = None, live: bool = False
) -> Conversion:
    """A conversion of one source to ``voice``, its pitch moved as asked; see `SpeechCodec.convert`.

    ``source`` is the voice of the source, where it is known beforehand: nothing then waits until it is measured.
    ``live`` bounds the look-ahead, see `Conversion`.

    Raises:
        AudioVQError: when there is too little speech of the target.
    """
    if source is None:
        return Conversion(voice.vector(), PitchMover(pitch, voice.pitch), live=live)
    return Conversion(voice.vector(), PitchMover(pitch, voice.pitch, source.pitch), source.vector(), live)


def warm_up(
    codec: Codec, conversion: Conversion, n_codebooks: int | None, packet_frames: int | None, decoder: str = "parallel"
) -> None:
    """Convert a second of silence, so that nothing is left to be loaded when speech comes; see `convert_audio`."""
    books = codec.conversion_codebooks if n_codebooks is None else n_codebooks
    encoder, stream = conversion.encoder_stream(codec, books, packet_frames), conversion.decoder_stream(codec, decoder)
    for packet in encoder.push(np.zeros(codec.sample_rate, np.float32)) + encoder.finish():
        stream.push(packet)


_NOTHING = np.zeros(0, np.float32)


def swap_speaker(
    source: Place,
    target: Place,
    voice: np.ndarray | Callable[[bytes], np.ndarray],
    progress: Progress | None = None,
    mover: Callable[[bytes], PitchMover] | None = None,
) -> CodingReport:
    """Give an .avq file another voice: a new header, and every packet's codes as they are, byte for byte.

    Args:
        source, target: paths, ``-``, or binary file objects.
        voice: a quantized speaker vector (S,) of the model that wrote the file, or what gives it for a model hash.
        mover: gives what moves the coded pitch, for a model hash; None: the pitch stays.

    Raises:
        AudioVQError: for a damaged file, or a vector of another size. Nothing is left of the target then.
    """
    with errors_about(describe(source)), open_input(source) as stream:
        reader = ContainerReader(stream)
        header = SpeechHeader.from_container(reader.header)
        vector = np.asarray(voice(header.model_hash) if callable(voice) else voice, np.int64)
        if len(vector) != header.speakers.shape[1] or vector.max() >> header.speaker_bits:
            raise AudioVQError(f"has speaker vectors of {header.speakers.shape[1]} values; the new one does not fit")
        speakers = np.tile(vector, (header.n_channels, 1))
        # Written as plain bits: they are understood with and without entropy coding.
        swapped = replace(header, speakers=speakers, coded_speakers=None).to_container()
        seconds = 0.0
        pitch = None if mover is None else mover(header.model_hash)
        with open_output(target) as output:
            writer = ContainerWriter(output, swapped)
            editor = _PitchEditor(writer, header, pitch)
            for record in reader.records(header.valid_length):
                if isinstance(record, Packet):
                    editor.write(record.payload, record.short)
                elif isinstance(record, End):
                    editor.finish()
                    writer.finish(record.extent)
                    seconds = record.extent / header.sample_rate
                if progress:
                    progress(reader.n_bytes, None)
        return CodingReport(seconds, header.n_channels, writer.n_bytes)


class _PitchEditor:
    """Passes packets on with their pitch moved and their codes untouched."""

    def __init__(self, writer: ContainerWriter, header: SpeechHeader, mover: PitchMover | None) -> None:
        self._writer, self._header, self._mover = writer, header, mover
        self._waiting: list[tuple[bytes, bytes, bool]] = []  # what stands before and behind the side block, short

    def write(self, payload: bytes, short: bool) -> None:
        """The next packet's payload."""
        if self._mover is None:
            self._writer.write_packet(payload, short)
            return
        n_frames, start = frames_in(payload, short, self._header.packet_frames)
        levels, tracks, end = self._header.unpack_side(payload, start, n_frames)
        self._waiting.append((payload[:start], payload[end:], short))
        empty = np.zeros((0, n_frames), np.int64)
        self._put(self._mover.push([SpeechPacket(empty, *side) for side in zip(tracks, levels, strict=True)]))

    def finish(self) -> None:
        """Write what was waiting."""
        if self._mover is not None:
            self._put(self._mover.finish())

    def _put(self, rows: list[list[SpeechPacket]]) -> None:
        for row in rows:
            before, behind, short = self._waiting.pop(0)
            self._writer.write_packet(before + pack_side(row) + behind, short)


def convert_audio(
    source: Place,
    target: Place,
    codec: Codec,
    conversion: Conversion,
    n_codebooks: int | None = None,
    decoder: str = "parallel",
    mono: bool = False,
    progress: Progress | None = None,
    raw: RawFormat | None = None,
    raw_target: RawFormat | None = None,
    packet_frames: int | None = None,
) -> CodingReport:
    """Audio in another voice, at the source's rate, channels and exact length, while it arrives, in constant memory.

    The samples are those of an .avq file that is written with that voice and decoded.

    Args:
        conversion: the target's vector, and the move of the pitch; for the others see `convert_file`.

    Raises:
        AudioVQError: for audio that cannot be read or coded, and a target that cannot be written. Nothing is left of
            the target then.
    """
    with errors_about(describe(source)), open_audio(source, raw) as audio, ExitStack() as stack:
        n_channels = audio.count_channels(mono)
        back = Resampler(codec.sample_rate, audio.sample_rate, n_channels)
        encoders = [conversion.encoder_stream(codec, n_codebooks, packet_frames) for _ in range(n_channels)]
        decoders = [conversion.decoder_stream(codec, decoder) for _ in range(n_channels)]
        output = None
        n_model = 0
        for samples in model_blocks(audio, codec, mono, conversion):
            if samples is None:
                packets = [encoder.finish() for encoder in encoders]
            else:
                n_model += len(samples)
                packets = [e.push(np.ascontiguousarray(samples[:, c])) for c, e in enumerate(encoders)]
            rows = conversion.move(zip(*packets, strict=True), ended=samples is None)
            pieces = [[d.push(row[c]) for row in rows] for c, d in enumerate(decoders)]
            if samples is None:
                pieces = [[*own, d.finish(n_model)] for d, own in zip(decoders, pieces, strict=True)]
            # Opened when something comes out: an input that cannot be read leaves nothing of the output.
            if output is None and pieces[0]:
                output = stack.enter_context(create_audio(target, audio.sample_rate, n_channels, raw_target))
            if output is not None:
                output.write(back.push(np.stack([np.concatenate([_NOTHING, *own]) for own in pieces], axis=1)))
            if progress:
                progress(audio.n_read, audio.n_frames)
        assert output is not None
        output.write(back.finish(audio.n_read))
        seconds = audio.n_read / audio.sample_rate
        return CodingReport(seconds, n_channels, 0, audio.n_clipped, remarks=audio.remarks + conversion.remarks())


def convert_file(
    source: Place,
    target: Place,
    codec: Codec | Callable[[bytes | None], Codec],
    voice: Callable[[Codec], TargetVoice],
    n_codebooks: int | None = None,
    pitch: Pitch = "auto",
    decoder: str = "parallel",
    mono: bool = False,
    progress: Progress | None = None,
    raw: RawFormat | None = None,
    raw_target: RawFormat | None = None,
    packet_frames: int | None = None,
    source_voice: Callable[[Codec], TargetVoice] | None = None,
    live: bool = False,
) -> CodingReport:
    """Audio or an .avq file in another voice, as audio or, when ``target`` is called so, as an .avq file.

    Args:
        source, target: paths, ``-`` for the standard streams, or binary file objects; by suffix, else WAV is written.
        codec: the model, or what gives it: for the hash that an .avq file carries, for None the one for audio.
        voice: gives the target as a model hears it (see `target_voice`).
        n_codebooks, pitch, decoder: see `SpeechCodec.convert`.
        mono: mix all channels of audio down to one first.
        raw, raw_target: formats of audio without a header that is read, and that is written.
        packet_frames: frames of a packet, for audio; the model's default when None.
        source_voice: gives the voice of the source, for audio; None: measured at its beginning, which it waits for.
        live: bound the look-ahead, for audio; see `Conversion`.

    Raises:
        AudioVQError: for input or a target that cannot be used. Nothing is left of the output then.
    """

    def model(model_hash: bytes | None) -> Codec:
        return codec if isinstance(codec, Codec) else codec(model_hash)

    coded = is_path(target) and str(target).lower().endswith(".avq")
    if is_avq(source):
        if live:
            raise AudioVQError(f"{describe(source)}: live conversion is for audio, and this is a coded file")
        if n_codebooks is not None and coded:
            raise AudioVQError(f"{describe(source)}: a coded file keeps its codebooks; --codebooks is for audio alone")
        if coded:

            def mover(model_hash: bytes) -> PitchMover:
                return PitchMover(pitch, voice(model(model_hash)).pitch)

            return swap_speaker(source, target, lambda found: voice(model(found)).vector(), progress, mover)

        def request(own: Codec) -> Conversion:
            return make_conversion(voice(own), pitch)

        return decode_file(source, target, model, decoder, False, progress, request, n_codebooks, raw_target)
    own = model(None)
    conversion = make_conversion(voice(own), pitch, None if source_voice is None else source_voice(own), live)
    books = own.conversion_codebooks if n_codebooks is None else n_codebooks
    if coded:
        return encode_file(source, target, own, books, mono, progress, conversion, raw=raw, packet_frames=packet_frames)
    settings = (decoder, mono, progress, raw, raw_target, packet_frames)
    return convert_audio(source, target, own, conversion, books, *settings)
