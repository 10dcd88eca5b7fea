"""Tables on standard output."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

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
