"""Signals that ask a run to stop: the step at hand is finished and saved first."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from audiovq.training.processes import world_size

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Stopped(KeyboardInterrupt):
    """A run that saved its state and stopped because of signal ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class StopSignals:
    """Within this context, ``number`` is the first signal that asked to stop, 0 until then.

    A second Ctrl-C interrupts at once (in a single process: launchers of several pass signals on, so that each arrives
    more than once). Signals that the parent ignores stay ignored.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._receive) for number in wanted}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT and world_size() == 1:
            raise KeyboardInterrupt
        self.number = self.number or number


def ignore_signals(worker: int = 0) -> None:
    """Leave stopping to the main process: what a data-loading worker starts with."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
