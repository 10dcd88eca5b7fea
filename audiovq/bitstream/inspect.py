"""What a file says of itself, without its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from audiovq.bitstream.container import VERSION, DamagedError
from audiovq.bitstream.speech_reader import SpeechReader
from audiovq.streams import Place, describe, errors_about, open_input

if TYPE_CHECKING:
    from audiovq.bitstream.entropy import EntropyCoder


@dataclass
class FileInfo:
    """The facts of an .avq file.

    Attributes:
        model_hash: hexadecimal.
        sample_rate, channels, samples, seconds: of the source; samples of each channel. None while the end is missing.
        codebooks, bits_per_code, packet_frames: of each channel's codes.
        coding: "packed" or "entropy".
        coded_bits_per_code: what a code takes in the packets on the average; None while none is found.
        packets, frames: found whole; frames of each channel.
        bytes: of the file up to its end record.
        kbps: from the bytes, all channels together.
        speakers: quantized speaker vectors, one list for each channel; None where they are entropy-coded and no model
            was at hand.
        damage: why the file cannot be read to its end; None when it is whole.
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
    packets: int
    frames: int
    samples: int | None
    seconds: float | None
    bytes: int
    kbps: float | None
    speakers: list[list[int]] | None
    damage: str | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def inspect_file(source: Place, coder_of: Callable[[bytes], EntropyCoder | None] | None = None) -> FileInfo:
    """Read a file through, checking all its checksums.

    Args:
        source: a path, ``-`` for standard input, or a binary file object.
        coder_of: gives the entropy coder of a model by its hash: it tells the speakers of entropy-coded files.

    Raises:
        AudioVQError: for a file whose header cannot be read; other damage is told in the result.
    """
    with errors_about(describe(source)), open_input(source) as stream:
        speech = SpeechReader(stream)
        if speech.header.entropy_coded and coder_of is not None:
            coder = coder_of(speech.header.model_hash)
            if coder is not None and coder.model.identity == speech.header.entropy_id:
                speech.use(coder)
        damage = None
        try:
            for _ in speech.packets(skim=True):
                pass
        except DamagedError as error:
            damage = str(error)
        header = speech.header
        whole = speech.is_complete
        seconds = speech.n_samples / header.sample_rate if whole else None
        n_codes = speech.n_frames * header.n_codebooks * header.n_channels
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
            coded_bits_per_code=8 * speech.n_payload_bytes / n_codes if n_codes else None,
            packets=speech.n_packets,
            frames=speech.n_frames,
            samples=speech.n_samples if whole else None,
            seconds=seconds,
            bytes=speech.n_bytes,
            kbps=8 * speech.n_bytes / seconds / 1000 if seconds else None,
            speakers=None if header.coded_speakers else header.speakers.tolist(),
            damage=damage,
        )
