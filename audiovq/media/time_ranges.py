"""Ranges of time, collected while audio is read and written out for messages."""

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
