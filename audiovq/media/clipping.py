"""Stretches of a recording that were clipped before it came here."""

from __future__ import annotations

import numpy as np

from audiovq.media.time_ranges import TimeRanges

_FULL_SCALE = 0.9999
_WINDOW_SECONDS = 0.02
_SHARE = 0.05  # of a channel's samples in a window: loud speech that is not clipped has single ones
_LONG_SECONDS = 0.1


class ClippingDetector:
    """Finds windows of 20 ms in which a twentieth of a channel's samples is at full scale."""

    def __init__(self, sample_rate: int, n_channels: int) -> None:
        self._rate, self._n_channels = sample_rate, n_channels
        self._window = max(round(_WINDOW_SECONDS * sample_rate), 1)
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
