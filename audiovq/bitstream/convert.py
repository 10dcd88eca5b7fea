"""Other voices: an .avq file gets another speaker without being decoded, audio is spoken anew by another voice."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from audiovq.bitstream.container import MAGIC, ContainerReader, ContainerWriter, End, Packet
from audiovq.bitstream.speech_file import CodingReport, Progress, model_blocks
from audiovq.bitstream.speech_layout import SpeechHeader
from audiovq.errors import AudioVQError
from audiovq.speech.waveform import Resampler, create_audio, open_audio
from audiovq.streams import Place, describe, errors_about, open_input, open_output

if TYPE_CHECKING:
    from audiovq.speech.codec import SpeechCodec
    from audiovq.speech.shift import Shifter


def is_avq(source: Place) -> bool:
    """Whether a path, standard input (``-``) or a binary file begins as an .avq file does; nothing is taken from it.

    Raises:
        AudioVQError: for a file that is missing, empty or not readable.
    """
    if isinstance(source, str) and source == "-":
        return sys.stdin.buffer.peek(len(MAGIC))[: len(MAGIC)] == MAGIC  # type: ignore[attr-defined]
    if not isinstance(source, str) and hasattr(source, "peek"):
        return source.peek(len(MAGIC))[: len(MAGIC)] == MAGIC
    with open_input(source) as stream:
        return stream.read(len(MAGIC)) == MAGIC


def read_speech_header(source: Place) -> SpeechHeader:
    """The header of an .avq file; what follows it is not read.

    Raises:
        AudioVQError: for what is no .avq file of speech, or whose header is damaged.
    """
    with errors_about(describe(source)), open_input(source) as stream:
        return SpeechHeader.from_container(ContainerReader(stream).header)


def swap_speaker(source: Place, target: Place, vector: np.ndarray, progress: Progress | None = None) -> CodingReport:
    """Give an .avq file another voice: a new header, and every packet's payload as it is, byte for byte.

    Args:
        source, target: paths, ``-``, or binary file objects.
        vector: the quantized speaker vector (S,) of the model that wrote the file.

    Raises:
        AudioVQError: for a damaged file, or a vector of another size. Nothing is left of the target then.
    """
    with errors_about(describe(source)), open_input(source) as stream:
        reader = ContainerReader(stream)
        header = SpeechHeader.from_container(reader.header)
        speakers = np.tile(vector, (header.n_channels, 1))
        if speakers.shape != header.speakers.shape:
            raise AudioVQError(f"has speaker vectors of {header.speakers.shape[1]} values, not {speakers.shape[1]}")
        swapped = replace(replace(header, speakers=speakers).to_container(), flags=reader.header.flags)
        seconds = 0.0
        with open_output(target) as output:
            writer = ContainerWriter(output, swapped)
            for record in reader.records(header.valid_length):
                if isinstance(record, Packet):
                    writer.write_packet(record.payload, record.short)
                elif isinstance(record, End):
                    writer.finish(record.extent)
                    seconds = record.extent / header.sample_rate
                if progress:
                    progress(reader.n_bytes, None)
        return CodingReport(seconds, header.n_channels, writer.n_bytes)


def convert_audio(
    source: Place,
    target: Place,
    codec: SpeechCodec,
    vector: np.ndarray,
    n_codebooks: int | None = None,
    decoder: str = "parallel",
    shift: Shifter | None = None,
    mono: bool = False,
    progress: Progress | None = None,
) -> CodingReport:
    """Audio in another voice, at the source's rate, channels and exact length, while it arrives, in constant memory.

    The samples are those that coding to an .avq file and decoding it with the other speaker would give.

    Args:
        source: a path, ``-`` for standard input, or a binary file object.
        target: a path (format by suffix), ``-`` for standard output (WAV), or a binary file object (WAV).
        codec: the model.
        vector: the target's quantized speaker vector (S,).
        n_codebooks: how many books carry what is said; the model's default when None.
        decoder: which of the model's decoders.
        shift: moves the pitch of the source before it is coded; see `Shifter`.
        mono: mix all channels down to one first.

    Raises:
        AudioVQError: for audio that cannot be read or coded, and a target that cannot be written. Nothing is left of
            the target then.
    """
    with errors_about(describe(source)), open_audio(source) as audio, ExitStack() as stack:
        n_channels = 1 if mono else audio.n_channels
        rate = codec.sample_rate
        back = Resampler(rate, audio.sample_rate, n_channels)
        encoders = [codec.encoder_stream(n_codebooks) for _ in range(n_channels)]
        decoders = [codec.decoder_stream(vector, decoder) for _ in range(n_channels)]
        output = None
        n_model = 0
        for samples in model_blocks(audio, codec, mono, shift):
            ended = samples is None
            if samples is None:
                packets = [encoder.finish() for encoder in encoders]
            else:
                n_model += len(samples)
                packets = [e.push(np.ascontiguousarray(samples[:, c])) for c, e in enumerate(encoders)]
            pieces = [
                np.concatenate([np.zeros(0, np.float32), *[d.push(codes) for codes in own]])
                for d, own in zip(decoders, packets, strict=True)
            ]
            if ended:
                pieces = [np.concatenate([p, d.finish(n_model)]) for p, d in zip(pieces, decoders, strict=True)]
            # Opened when something comes out: an input that cannot be read leaves nothing of the output.
            if output is None and len(pieces[0]):
                output = stack.enter_context(create_audio(target, audio.sample_rate, n_channels))
            if output is not None:
                output.write(back.push(np.stack(pieces, axis=1)))
            if progress:
                progress(audio.n_read, audio.n_frames)
        assert output is not None
        output.write(back.finish(audio.n_read))
        return CodingReport(audio.n_read / audio.sample_rate, n_channels, 0, audio.n_clipped)
