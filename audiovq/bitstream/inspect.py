"""What a file says of itself, without its model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from audiovq.bitstream.container import VERSION, DamagedError
from audiovq.bitstream.speech_reader import SpeechReader
from audiovq.streams import Place, describe, errors_about, open_input


@dataclass
class FileInfo:
    """The facts of an .avq file.

    Attributes:
        model_hash: hexadecimal.
        sample_rate, channels, samples, seconds: of the source; samples of each channel. None while the end is missing.
        codebooks, bits_per_code, packet_frames: of each channel's codes.
        packets, frames: found whole; frames of each channel.
        bytes: of the file up to its end record.
        kbps: from the bytes, all channels together.
        speakers: quantized speaker vectors, one list for each channel.
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
    packets: int
    frames: int
    samples: int | None
    seconds: float | None
    bytes: int
    kbps: float | None
    speakers: list[list[int]]
    damage: str | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def inspect_file(source: Place) -> FileInfo:
    """Read a file through, checking all its checksums.

    Raises:
        AudioVQError: for a file whose header cannot be read; other damage is told in the result.
    """
    with errors_about(describe(source)), open_input(source) as stream:
        speech = SpeechReader(stream)
        damage = None
        try:
            for packet in speech.packets():
                assert isinstance(packet, np.ndarray)
        except DamagedError as error:
            damage = str(error)
        header = speech.header
        whole = speech.is_complete
        seconds = speech.n_samples / header.sample_rate if whole else None
        return FileInfo(
            version=VERSION,
            media="speech",
            model_hash=header.model_hash.hex(),
            sample_rate=header.sample_rate,
            channels=header.n_channels,
            codebooks=header.n_codebooks,
            bits_per_code=header.code_bits,
            packet_frames=header.packet_frames,
            packets=speech.n_packets,
            frames=speech.n_frames,
            samples=speech.n_samples if whole else None,
            seconds=seconds,
            bytes=speech.n_bytes,
            kbps=8 * speech.n_bytes / seconds / 1000 if seconds else None,
            speakers=header.speakers.tolist(),
            damage=damage,
        )
