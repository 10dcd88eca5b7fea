"""Packages that only the evaluation needs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from audiovq.errors import AudioVQError


def need(module: str, what: str) -> Any:
    """Import ``module``, which ``what`` is computed with.

    Raises:
        AudioVQError: when it, or something it imports, is not installed; the message names the extra that has it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise AudioVQError(f"{what} needs the package {missing!r}: pip install 'audiovq[eval]'") from error
