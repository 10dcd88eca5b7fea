"""Ctrl-C and requests to end: leaving through the ordinary clean-up, so that no temporary file stays."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))

_received: int | None = None


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Make signals that ask to end raise `KeyboardInterrupt`, and remember the first for the functions below.

    An interrupt that falls into a callback from compiled code (numba reads its cache so) is printed and forgotten by
    the interpreter; here it is neither.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        global _received
        _received = _received or number
        raise KeyboardInterrupt

    def forget(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            hook(unraisable)

    _received = None
    hook, sys.unraisablehook = sys.unraisablehook, forget
    # What a shell's background job ignores stays ignored.
    numbers = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook, _received = hook, None


def check_interrupt() -> None:
    """Called now and then.

    Raises:
        KeyboardInterrupt: when one was asked for and did not get through.
    """
    if _received is not None:
        raise KeyboardInterrupt


def is_interrupted() -> bool:
    """Whether a signal has asked to end."""
    return _received is not None


def exit_code() -> int:
    """The exit code of an interrupted program, as a shell gives it: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (_received or signal.SIGINT)
