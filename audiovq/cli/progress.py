"""Progress on stderr, when somebody looks at it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from audiovq.cli.interrupts import check_interrupt

if TYPE_CHECKING:
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
