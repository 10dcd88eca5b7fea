"""What a file says of itself, without its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.bitstream.container import VERSION, DamagedError
from audiovq.bitstream.speech_reader import SpeechReader
from audiovq.io import Place, describe, errors_about, open_input, size_of
from audiovq.pitch_scale import LOWEST_HZ, STEPS_PER_OCTAVE

if TYPE_CHECKING:
    from audiovq.bitstream.entropy import EntropyCoder


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
        pitch_and_level_bps=_side_rate(speech, clock),
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


def _side_rate(speech: SpeechReader, clock: tuple[int, int] | None) -> float | None:
    if clock is None or not speech.pitch.sum():
        return None
    seconds = float(speech.pitch.sum()) * clock[1] / clock[0]
    return 8 * speech.n_side_bytes / seconds
