"""Samples: the formats of WAV and of audio without a header as bytes, and checks of decoded samples.

Checks run while samples are read: time ranges for messages, clipped stretches, mixing down to mono.
"""

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
_HEADERS = {b"RIFF": "a WAV", b"RF64": "a WAV", b"fLaC": "a FLAC", b"OggS": "an Ogg", b"FORM": "an AIFF"}
_HEADERS[b"AVQ"] = "an .avq"


@dataclass
class Audio:
    """Audio that is decoded while it is read.

    Attributes:
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
            raise AudioVQError(f"unknown sample format {self.samples!r}; choose from {', '.join(FORMATS)}")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return FORMATS[self.samples][1] * self.n_channels

    def expect(self, sample_rate: int, n_channels: int) -> None:
        """Raise `AudioVQError` unless audio of this rate and number of channels is meant."""
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
    """Samples as they arrive, blocks (n, channels) float32; returns the bytes of a last frame that is not whole.

    ``stream`` is anything with ``read1``, which gives what a pipe holds now: a slow source is coded while it speaks.
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
    """Audio without a header, which is read while it arrives; ``stream`` is a `Peekable`, from its first byte.

    Raises:
        AudioVQError: for what has a header after all, and a format without rate or channels.
    """
    if raw.sample_rate < 1 or raw.n_channels < 1:
        raise AudioVQError("raw audio needs a sample rate and a number of channels")
    head = stream.peek(12)
    for start, name in _HEADERS.items():
        if head.startswith(start):
            raise AudioVQError(f"is {name} file, not raw audio; omit --raw")
    n_frames = None if file_size is None else file_size // raw.frame_bytes
    audio = Audio(raw.sample_rate, raw.n_channels, n_frames, iter(()))

    def blocks() -> Iterator[np.ndarray]:
        n_rest = yield from read_frames(stream, raw)
        if n_rest:
            audio.remarks.append(
                f"warning: {n_rest} of its bytes are left over, a sample of all channels takes {raw.frame_bytes}; "
                "are --raw and --channels right?"
            )

    audio.blocks = blocks()
    return audio


_MERGED_SECONDS = 0.1
_MOST_SHOWN = 4


class TimeRanges:
    """Ranges in ascending order; those less than 0.1 s apart become one."""

    def __init__(self) -> None:
        self.ranges: list[list[float]] = []

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def add(self, start: float, stop: float) -> None:
        """Add a range in seconds that begins no earlier than those before it."""
        if self.ranges and start - self.ranges[-1][1] < _MERGED_SECONDS:
            self.ranges[-1][1] = max(stop, self.ranges[-1][1])
        else:
            self.ranges.append([start, stop])

    def add_frames(self, marked: np.ndarray, first: int, sample_rate: int) -> None:
        """Add the runs of a mask (n,) whose first place is frame ``first``."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]])))
        for start, stop in edges.reshape(-1, 2):
            self.add((first + int(start)) / sample_rate, (first + int(stop)) / sample_rate)

    def longer_than(self, seconds: float) -> TimeRanges:
        """Those that last at least so long."""
        longer = TimeRanges()
        longer.ranges = [r for r in self.ranges if r[1] - r[0] >= seconds]
        return longer

    def __str__(self) -> str:
        shown = [
            f"{start:.2f} s to {stop:.2f} s" if stop - start >= 0.01 else f"{start:.3f} s"
            for start, stop in self.ranges[:_MOST_SHOWN]
        ]
        more = len(self.ranges) - len(shown)
        if more:
            return f"{', '.join(shown)} and {more} more"
        return shown[-1] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


_FULL_SCALE = 0.9999
_CLIPPING_SECONDS = 0.02
_SHARE = 0.05  # of a channel's samples in a window: loud speech that is not clipped has single ones
_LONG_SECONDS = 0.1


class ClippingDetector:
    """Finds windows of 20 ms in which a twentieth of a channel's samples is at full scale."""

    def __init__(self, sample_rate: int, n_channels: int) -> None:
        self._rate, self._n_channels = sample_rate, n_channels
        self._window = max(round(_CLIPPING_SECONDS * sample_rate), 1)
        self._counts: dict[int, int] = {}  # of windows that may go on, by window and channel
        self._n_frames = 0
        self._clipped = TimeRanges()

    def add(self, magnitudes: np.ndarray) -> None:
        """More of the recording: absolute values (n, channels)."""
        frames, channels = np.nonzero(magnitudes >= _FULL_SCALE)
        places = (self._n_frames + frames) // self._window * self._n_channels + channels
        for place, count in zip(*np.unique(places, return_counts=True), strict=True):
            self._counts[int(place)] = self._counts.get(int(place), 0) + int(count)
        self._n_frames += len(magnitudes)
        self._close(self._n_frames // self._window * self._n_channels)

    def _close(self, end: int) -> None:
        done = sorted(place for place in self._counts if place < end)
        for place in done:
            if self._counts.pop(place) >= _SHARE * self._window:
                start = place // self._n_channels * self._window
                self._clipped.add(start / self._rate, min(start + self._window, self._n_frames) / self._rate)

    def finish(self) -> TimeRanges:
        """The stretches that are long enough to be heard."""
        self._close(self._n_frames * self._n_channels + 1)
        return self._clipped.longer_than(_LONG_SECONDS)


_MIXING_SECONDS = 0.1
_FADE_SECONDS = 0.01
# The mean of C independent channels has the energy of all of them over C^2. Below a fiftieth of that, which for two
# channels is 20 dB below either, they cancel; above a quarter they do not.
_CANCELLED, _CLEAR = 0.02, 0.25
_AS_LOUD = 0.9
_QUIET = 1e-3  # of the mean energy so far: windows below decide nothing


def mix_down(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """A whole recording (T, channels) as one channel (T,) float32: see `Mixdown`."""
    mixdown = Mixdown(sample_rate, samples.shape[1])
    return np.concatenate([mixdown.push(samples), mixdown.finish()])[:, 0]


class Mixdown:
    """The mean of all channels, and the louder channel alone where the mean is nearly nothing.

    Recordings of one microphone whose second channel has the opposite sign would be silent otherwise. Windows of 0.1 s
    on a fixed grid decide, so that the result does not depend on how the audio was cut into blocks.

    Attributes:
        cancelled: where a channel was taken alone.
    """

    def __init__(self, sample_rate: int, n_channels: int) -> None:
        self._rate, self._n_channels = sample_rate, n_channels
        self._window = max(round(_MIXING_SECONDS * sample_rate), 1)
        self._waiting = np.zeros((0, n_channels), np.float32)
        self._energies = np.zeros(n_channels)
        self._n_frames = 0
        self._alone: int | None = None
        self.cancelled = TimeRanges()

    def push(self, block: np.ndarray) -> np.ndarray:
        """(n, channels) -> what is ready of the result, (m, 1)."""
        if self._n_channels == 1:
            return block
        data = np.concatenate([self._waiting, block])
        whole = len(data) - len(data) % self._window
        self._waiting = data[whole:]
        return self._mix(data[:whole])

    def finish(self) -> np.ndarray:
        """The rest of the result, (m, 1)."""
        rest, self._waiting = self._waiting, self._waiting[:0]
        return self._mix(rest)

    def _mix(self, data: np.ndarray) -> np.ndarray:
        mixed = data.mean(axis=1, dtype=np.float32)
        starts = np.arange(0, len(data), self._window)
        energies = np.add.reduceat(np.square(data, dtype=np.float64), starts) if len(data) else data
        of_mean = np.add.reduceat(np.square(mixed, dtype=np.float64), starts) if len(data) else mixed
        for start, energy, mean in zip(starts.tolist(), energies, of_mean, strict=True):
            window = data[start : start + self._window]
            before = self._alone
            self._decide(energy, mean, len(window))
            if before is not None or self._alone is not None:
                mixed[start : start + len(window)] = self._fade(window, mixed[start : start + len(window)], before)
            self._n_frames += len(window)
        return mixed[:, None]

    def _decide(self, energies: np.ndarray, of_mean: float, n: int) -> None:
        """Set the channel to take alone from the energies (channels,) of a window of ``n`` frames and of its mean."""
        if n < self._window and self._n_frames:
            return  # the end of a recording goes with what is before it
        self._energies += energies
        total = energies.sum()
        if total <= _QUIET * self._energies.sum() * n / (self._n_frames + n):
            return
        share = of_mean * self._n_channels**2 / total
        if share < _CANCELLED and self._alone is None:
            # Of channels about as loud as each other the first, whatever the rounding of their samples says.
            self._alone = int((self._energies >= _AS_LOUD * self._energies.max()).argmax())
        elif share > _CLEAR:
            self._alone = None

    def _fade(self, window: np.ndarray, mean: np.ndarray, before: int | None) -> np.ndarray:
        """A window (n, channels) with mean (n,), from what was taken ``before`` to what is now."""
        source = mean if before is None else window[:, before]
        target = mean
        if self._alone is not None:
            target = window[:, self._alone]
            self.cancelled.add(self._n_frames / self._rate, (self._n_frames + len(window)) / self._rate)
        if self._n_frames == 0:
            return target
        n_faded = min(max(round(_FADE_SECONDS * self._rate), 1), len(window))
        rise = np.minimum(np.arange(1, len(window) + 1, dtype=np.float32) / n_faded, 1)
        return source + rise * (target - source)
