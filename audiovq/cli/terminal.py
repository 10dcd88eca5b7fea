"""Progress bars, tables and interrupts on a terminal."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from audiovq.bitstream.speech_file import Progress


class Display:
    """A bar for the current file and, of several, one for all; nothing where stderr is no terminal."""

    def __init__(self, n_files: int) -> None:
        self._n_files = n_files
        self._bars: Any = None

    def __enter__(self) -> Display:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bars.start()
            self._all = self._bars.add_task("all files", total=self._n_files) if self._n_files > 1 else None
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    @contextmanager
    def file(self, name: str) -> Iterator[Progress]:
        """The bar of one file: a function to call with what is done and how much there is, in any unit."""
        if self._bars is None:
            yield lambda done, total: check_interrupt()
            return
        from rich.markup import escape

        task = self._bars.add_task(escape(os.path.basename(name)), total=None)

        def tell(done: float, total: float | None) -> None:
            check_interrupt()
            self._bars.update(task, completed=done, total=total)

        try:
            yield tell
        finally:
            self._bars.remove_task(task)
            if self._all is not None:
                self._bars.advance(self._all)

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._bars is None:
            print(text, file=sys.stderr)
        else:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


WIDTH = 1000
"""Of files and pipes: whole rows are better there than folded ones."""


def stdout_console() -> Console:
    """A console for standard output: as wide as the terminal, or without folding elsewhere."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH, markup=False, highlight=False, emoji=False)


def print_rows(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Rows in columns, of which ``right`` are aligned to the right."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    for i in range(len(rows[0])):
        table.add_column(justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = stdout_console()
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def print_fields(fields: Mapping[str, str]) -> None:
    """Names and values."""
    print_rows(list(fields.items()))


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
