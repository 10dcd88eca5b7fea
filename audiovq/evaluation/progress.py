"""How an evaluation tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many pairs are done, and how many there are."""


def silent(what: str, done: int, total: int) -> None:
    """Tells nothing."""
