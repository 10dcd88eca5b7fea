"""Samples as bytes: the formats of WAV and of audio without a header."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from audiovq.errors import AudioVQError

#: Formats by the names that FFmpeg gives them: numpy's type, and bytes of a sample.
FORMATS = {
    "s8": ("i1", 1),
    "u8": ("u1", 1),
    "s16le": ("<i2", 2),
    "s16be": (">i2", 2),
    "s24le": ("<i4", 3),
    "s32le": ("<i4", 4),
    "f32le": ("<f4", 4),
    "f64le": ("<f8", 8),
}
_BLOCK = 1 << 16
_HEADERS = {
    b"RIFF": "a WAV",
    b"RF64": "a WAV",
    b"fLaC": "a FLAC",
    b"OggS": "an Ogg",
    b"FORM": "an AIFF",
    b"AVQ": "an .avq",
}


@dataclass
class Audio:
    """Audio that is decoded while it is read.

    Attributes:
        sample_rate: Hz.
        n_channels: channels.
        n_frames: samples of each channel by the header, for progress; None where that is not known.
        blocks: (n, channels) float32, full scale 1.0, in their order; reading raises `AudioVQError` for damage.
        remarks: of the file, for its user; complete when the blocks are read.
    """

    sample_rate: int
    n_channels: int
    n_frames: int | None
    blocks: Iterator[np.ndarray]
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RawFormat:
    """Audio without a header: interleaved samples of a format of `FORMATS`.

    For audio that is written, 0 Hz or channels mean those that it has.

    Raises:
        AudioVQError: for a format that is not known.
    """

    samples: str
    sample_rate: int = 0
    n_channels: int = 0

    def __post_init__(self) -> None:
        if self.samples not in FORMATS:
            raise AudioVQError(f"there is no sample format {self.samples!r}; there are {', '.join(FORMATS)}")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return FORMATS[self.samples][1] * self.n_channels

    def expect(self, sample_rate: int, n_channels: int) -> None:
        """Check that audio of this rate and number of channels is meant.

        Raises:
            AudioVQError: when it is not.
        """
        if self.sample_rate not in (0, sample_rate):
            raise AudioVQError(f"the audio has {sample_rate} Hz, --rate is {self.sample_rate}")
        if self.n_channels not in (0, n_channels):
            raise AudioVQError(f"the audio has {n_channels} channels, --channels is {self.n_channels}")


def to_float(data: bytes, samples: str) -> np.ndarray:
    """Bytes of whole samples -> (n,) float32, full scale 1.0."""
    kind, width = FORMATS[samples]
    if samples[0] == "f":
        with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, which readers refuse by name
            return np.frombuffer(data, kind).astype(np.float32)
    if samples == "u8":
        return (np.frombuffer(data, kind).astype(np.float32) - 128) / 128
    if width == 3:
        # Three bytes become the upper ones of four, which keeps the sign.
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data, width = wide.tobytes(), 4
    return np.frombuffer(data, kind).astype(np.float32) / np.float32(1 << (8 * width - 1))


def from_float(block: np.ndarray, samples: str) -> bytes:
    """Inverse of `to_float` for an array of any shape. Integers are rounded, and clipped to full scale."""
    kind, width = FORMATS[samples]
    if samples[0] == "f":
        return block.astype(kind).tobytes()
    full = 1 << (8 * width - 1)
    # Products with a power of two are exact in float32; the largest 32-bit integer is not one of its numbers.
    values = np.clip(np.rint(block * np.float32(full)).astype(np.float64), -full, full - 1)
    if samples == "u8":
        return (values + 128).astype(kind).tobytes()
    if width == 3:
        return values.astype(kind).reshape(-1, 1).view(np.uint8)[:, :3].tobytes()
    return values.astype(kind).tobytes()


def read_frames(stream: Any, raw: RawFormat) -> Generator[np.ndarray, None, int]:
    """Samples as they arrive, blocks (n, channels) float32; a last frame that is not whole is dropped.

    Args:
        stream: anything with ``read1``, which gives what a pipe holds now: a slow source is coded while it speaks.
        raw: the format.

    Returns:
        Bytes of the frame that was dropped, as the generator's return value.
    """
    rest = b""
    while data := stream.read1(max(_BLOCK, raw.frame_bytes)):
        data = rest + data
        whole = len(data) - len(data) % raw.frame_bytes
        rest = data[whole:]
        if whole:
            yield to_float(data[:whole], raw.samples).reshape(-1, raw.n_channels)
    return len(rest)


def open_raw(stream: Any, raw: RawFormat, file_size: int | None) -> Audio:
    """Audio without a header, which is read while it arrives.

    Args:
        stream: a `Peekable`, from its first byte.
        raw: the format.
        file_size: bytes, where known.

    Raises:
        AudioVQError: for what has a header after all, and a format without rate or channels.
    """
    if raw.sample_rate < 1 or raw.n_channels < 1:
        raise AudioVQError("raw audio needs a sample rate and a number of channels")
    head = stream.peek(12)
    for start, name in _HEADERS.items():
        if head.startswith(start):
            raise AudioVQError(f"is {name} file, not raw audio; leave out --raw")
    audio = Audio(
        raw.sample_rate, raw.n_channels, None if file_size is None else file_size // raw.frame_bytes, iter(())
    )

    def blocks() -> Iterator[np.ndarray]:
        n_rest = yield from read_frames(stream, raw)
        if n_rest:
            audio.remarks.append(
                f"warning: {n_rest} of its bytes are left over, a sample of all channels takes {raw.frame_bytes}; "
                "are --raw and --channels right?"
            )

    audio.blocks = blocks()
    return audio
