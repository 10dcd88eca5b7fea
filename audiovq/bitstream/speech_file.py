"""Speech files: a waveform to .avq and back, packet by packet, and `EncodedSpeech` to .avq and back.

Every channel is coded on its own, as if it were a file of one channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.bitstream.container import ContainerWriter
from audiovq.bitstream.entropy import coder_for
from audiovq.bitstream.speech_layout import SpeechHeader
from audiovq.bitstream.speech_reader import LostSpeech, SpeechReader
from audiovq.errors import AudioVQError
from audiovq.interfaces import Codec, CodedChannel, EncodedSpeech, Packet, Progress, VoiceConversion
from audiovq.io import Place, describe, errors_about, open_input, open_output, size_of
from audiovq.media.waveform import AudioReader, Resampler, create_audio, n_resampled, open_audio

if TYPE_CHECKING:
    from audiovq.media.samples import RawFormat


REMEDY = "audiovq decode --conceal makes audio of the rest, which can be converted"
"""What errors about damage advise in a conversion."""


@dataclass
class CodingReport:
    """What was done.

    Attributes:
        seconds, n_channels: of the audio.
        n_bytes: of the .avq file that was written, or read (``decoded``).
        n_clipped: samples of the source beyond full scale, which were clipped.
        damage: what was lost, in words, when damage was concealed.
        remarks: what else the user should know.
    """

    seconds: float
    n_channels: int
    n_bytes: int
    n_clipped: int = 0
    decoded: bool = False
    damage: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class _SpeechWriter:
    """Codes of all channels to a container."""

    def __init__(
        self,
        stream: Any,
        codec: Codec,
        sample_rate: int,
        speakers: np.ndarray,
        n_codebooks: int,
        packet_frames: int,
        entropy_coding: bool,
    ) -> None:
        code_bits, size = (codec.codebook_size - 1).bit_length(), speakers.shape[1]
        coder = coder_for(codec) if entropy_coding else None
        fits = coder is not None and coder.can_code(n_codebooks, code_bits, size, codec.speaker_bits)
        self.coder = coder if fits else None
        self.header = SpeechHeader(
            model_hash=codec.model_hash,
            sample_rate=sample_rate,
            n_codebooks=n_codebooks,
            code_bits=code_bits,
            packet_frames=packet_frames,
            speakers=speakers,
            speaker_bits=codec.speaker_bits,
            entropy_coded=self.coder is not None,
            entropy_id=b"" if self.coder is None else self.coder.model.identity,
        )
        self.container = ContainerWriter(stream, self.header.to_container(self.coder))

    def write(self, packets: Sequence[Packet]) -> None:
        """A packet of each channel."""
        payload, short = self.header.pack(packets, self.coder)
        self.container.write_packet(payload, short)


def encode_file(
    source: Place,
    target: Place,
    codec: Codec,
    n_codebooks: int | None = None,
    mono: bool = False,
    progress: Progress | None = None,
    conversion: VoiceConversion | None = None,
    entropy_coding: bool = True,
    raw: RawFormat | None = None,
    packet_frames: int | None = None,
) -> CodingReport:
    """Code audio of any length in constant memory; the bytes do not depend on how the audio arrives.

    Args:
        source: a path, ``-`` for standard input, or a binary file object.
        target: where the .avq goes: a path, ``-`` for standard output, or a binary file object.
        codec: the model.
        n_codebooks: for each channel; the model's default when None.
        mono: mix all channels down to one first.
        conversion: conversion to another speaker; None: the source's own.
        entropy_coding: make the file smaller without changing a code, where the model can.
        raw: the format of a source without a header.
        packet_frames: frames of a packet; the model's default when None.

    Raises:
        AudioVQError: for audio that cannot be read or coded, and a target that cannot be written. Nothing is left of
            the target then.
    """
    with errors_about(describe(source)), open_audio(source, raw) as audio, ExitStack() as stack:
        begin = codec.encoder_stream if conversion is None else partial(conversion.encoder_stream, codec)
        channels = [begin(n_codebooks, packet_frames) for _ in range(audio.count_channels(mono))]
        writer: _SpeechWriter | None = None

        def write(packets: list[list[Packet]], ended: bool = False) -> None:
            nonlocal writer
            rows: Iterable[Sequence[Packet]] = zip(*packets, strict=True)
            for row in rows if conversion is None else conversion.move(rows, ended):
                # The output is opened with the first packet: it brings the speakers, which stand in the header.
                if writer is None:
                    stream = stack.enter_context(open_output(target))
                    vectors = [channel.speaker if conversion is None else conversion.vector for channel in channels]
                    speakers = np.stack([np.asarray(vector, np.int64) for vector in vectors])
                    size = packet_frames or codec.packet_frames
                    settings = (len(row[0].codes), size, entropy_coding)
                    writer = _SpeechWriter(stream, codec, audio.sample_rate, speakers, *settings)
                writer.write(row)

        for samples in model_blocks(audio, codec, mono, conversion):
            if samples is None:
                write([channel.finish() for channel in channels], ended=True)
            else:
                write([channel.push(np.ascontiguousarray(samples[:, c])) for c, channel in enumerate(channels)])
            if progress:
                progress(audio.n_read, audio.n_frames)
        assert writer is not None
        writer.container.finish(audio.n_read)
        remarks, seconds = list(audio.remarks), audio.n_read / audio.sample_rate
        remarks += [] if conversion is None else conversion.remarks()
        return CodingReport(seconds, len(channels), writer.container.n_bytes, audio.n_clipped, remarks=remarks)


def model_blocks(
    audio: AudioReader, codec: Codec, mono: bool = False, conversion: VoiceConversion | None = None
) -> Iterator[np.ndarray | None]:
    """Blocks (n, channels) at the model's rate, ready to be coded, then None at the end."""
    resampler = Resampler(audio.sample_rate, codec.sample_rate, 1 if mono else audio.n_channels)
    for block in audio.blocks(mono):
        samples = resampler.push(block)
        if conversion is not None:
            conversion.observe(samples, codec.sample_rate)
        yield samples
    rest = resampler.finish(n_resampled(audio.n_read, audio.sample_rate, codec.sample_rate))
    if conversion is not None:
        conversion.observe(rest, codec.sample_rate)
    yield rest
    yield None


def decode_file(
    source: Place,
    target: Place,
    codec: Codec | Callable[[bytes], Codec],
    decoder: str = "parallel",
    conceal: bool = False,
    progress: Progress | None = None,
    conversion: Callable[[Codec], VoiceConversion] | None = None,
    n_codebooks: int | None = None,
    raw: RawFormat | None = None,
) -> CodingReport:
    """Decode a file of any length in constant memory, at the source's rate, channels and exact length.

    Args:
        source: the .avq: a path, ``-`` for standard input, or a binary file object.
        target: a path (format by suffix), ``-`` for standard output (WAV), or a binary file object (WAV).
        codec: the model that wrote the file, or what gives it for a model hash.
        decoder: which of the model's decoders.
        conceal: decode what is good of a damaged file, and fill in what is lost; long gaps become silent.
        conversion: gives, for a model, the conversion to another speaker; None: the file's own.
        n_codebooks: decode no more than so many of them.
        raw: write this format, without a header.

    Raises:
        AudioVQError: for a damaged file, unless ``conceal``; a file of another model; a target that cannot be written.
            Nothing is left of the target then.
    """
    with errors_about(describe(source)), open_input(source) as stream:
        speech = SpeechReader(stream)
        model_hash = speech.header.model_hash
        model = codec if isinstance(codec, Codec) else codec(model_hash)
        speech.expect(model)
        header = speech.header
        other = None if conversion is None else conversion(model)
        if other is None:
            channels = [model.decoder_stream(speaker, decoder) for speaker in header.speakers]
        else:
            channels = [other.decoder_stream(model, decoder) for _ in header.speakers]
            speech.remedy = REMEDY
        resampler = Resampler(model.sample_rate, header.sample_rate, header.n_channels)
        total = size_of(stream)
        with ExitStack() as stack:
            audio = None
            for item in _moved(speech.packets(conceal), other):
                if isinstance(item, LostSpeech):
                    pieces = [channel.push(None, n_frames=item.n_frames) for channel in channels]
                else:
                    pieces = [channel.push(one.first(n_codebooks)) for channel, one in zip(channels, item, strict=True)]
                if audio is None:
                    audio = stack.enter_context(create_audio(target, header.sample_rate, header.n_channels, raw))
                audio.write(resampler.push(np.stack(pieces, axis=1)))
                if progress:
                    progress(speech.n_bytes, total)
            if audio is None or not speech.n_good:
                raise AudioVQError("nothing in it can be decoded: no packet of it is intact")
            pieces = [channel.finish(speech.n_model_samples) for channel in channels]
            audio.write(resampler.push(np.stack(pieces, axis=1)))
            audio.write(resampler.finish(speech.n_samples))
        seconds = speech.n_samples / header.sample_rate
        return CodingReport(seconds, header.n_channels, speech.n_bytes, damage=speech.damage, decoded=True)


def _moved(
    items: Iterable[list[Packet] | LostSpeech], conversion: VoiceConversion | None
) -> Iterator[Sequence[Packet] | LostSpeech]:
    """Packets of all channels in their order, their pitch moved by a conversion."""
    for item in items:
        if isinstance(item, LostSpeech):
            yield item
        else:
            yield from [item] if conversion is None else conversion.move([item])
    if conversion is not None:
        yield from conversion.move([], ended=True)


def save_channels(channels: Sequence[CodedChannel], target: Place, codec: Codec, entropy_coding: bool = True) -> None:
    """As `save_encoded`, for channels of equal length and equal packets."""
    speakers = np.stack([channel.speaker for channel in channels])
    n_codebooks, packet_frames = len(channels[0].packets[0].codes), channels[0].packet_frames
    with open_output(target) as stream:
        writer = _SpeechWriter(stream, codec, codec.sample_rate, speakers, n_codebooks, packet_frames, entropy_coding)
        for row in zip(*(channel.packets for channel in channels), strict=True):
            writer.write(row)
        writer.container.finish(channels[0].n_samples)


def load_channels(source: Place, codec: Codec) -> list[CodedChannel]:
    """As `load_encoded`: each channel."""
    with errors_about(describe(source)), open_input(source) as stream:
        speech = SpeechReader(stream)
        speech.expect(codec)
        channels = list(zip(*(item for item in speech.packets() if isinstance(item, list)), strict=True))
    header, n_samples = speech.header, speech.n_model_samples
    rows = zip(channels, header.speakers, strict=True)
    return [CodedChannel(list(packets), speaker, n_samples, header.packet_frames) for packets, speaker in rows]


def save_encoded(encoded: EncodedSpeech, target: Place, codec: Codec, entropy_coding: bool = True) -> None:
    """Write what ``codec.encode`` gave. The items of a batch become the channels of one file.

    ``entropy_coding`` makes the file smaller without changing a code, where the model can.

    Raises:
        AudioVQError: for items of unequal lengths (save them one by one), and a target that cannot be written.
    """
    if len(set(encoded.n_samples.tolist())) != 1:
        raise AudioVQError("items of unequal lengths do not go into one file: save them one by one")
    channels = [encoded.channel(i, codec) for i in range(len(encoded.codes))]
    save_channels(channels, target, codec, entropy_coding)


def load_encoded(source: Place, codec: Codec) -> EncodedSpeech:
    """Read a file into memory: one item for each of its channels; ``codec.decode`` makes speech of it.

    Raises:
        AudioVQError: for a damaged file or a file of another model.
    """
    return EncodedSpeech.of(load_channels(source, codec))
