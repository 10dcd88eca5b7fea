"""Checks of decoded samples while they are read: time ranges for messages, clipped stretches, mixing down to mono."""

from __future__ import annotations

import numpy as np

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
