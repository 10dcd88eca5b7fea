"""Ctrl-C and requests to end: leaving through the ordinary clean-up, so that no temporary file stays."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_asked = False


@contextmanager
def clean_up_when_terminated() -> Iterator[None]:
    """Make interrupts and requests to end raise `KeyboardInterrupt`, and remember them for `check_interrupt`.

    An interrupt that falls into a callback from compiled code (numba reads its cache so) is printed and forgotten by
    the interpreter; here it is neither.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        global _asked
        _asked = True
        raise KeyboardInterrupt

    def forget(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            hook(unraisable)

    _asked = False
    hook, sys.unraisablehook = sys.unraisablehook, forget
    # What a shell's background job ignores stays ignored.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook, _asked = hook, False


def check_interrupt() -> None:
    """Called now and then.

    Raises:
        KeyboardInterrupt: when one was asked for and did not get through.
    """
    if _asked:
        raise KeyboardInterrupt
