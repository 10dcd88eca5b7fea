"""Errors that a user can meet, which the command line prints as one line, and packages that are not always needed."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


class AudioVQError(Exception):
    """Something the user can act on. The message says, in one line, what is wrong and what to do."""


def reason_of(error: BaseException) -> str:
    """An error of a library in one line; the name of its type where it has no text."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def need(module: str, what: str, extra: str | None = "eval") -> Any:
    """Import ``module``, which ``what`` is computed with, and which ``extra`` installs (None: every installation).

    Raises:
        AudioVQError: when it, or something it imports, is not installed; the message names the extra that has it.
    """
    if module == "onnxruntime":  # its telemetry writes to standard error where there is no home folder
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return import_module(module)
    except ImportError as error:
        missing = error.name or module
        install = missing if extra is None else f"'audiovq[{extra}]'"
        raise AudioVQError(f"{what} needs the package {missing!r}: pip install {install}") from error


def lazy(package: str, **modules: str) -> Callable[[str], Any]:
    """A package's ``__getattr__``: it imports names at their first use.

    Args:
        package: its name.
        modules: the names that each of its modules has, with spaces between.
    """
    places = {name: module for module, names in modules.items() for name in names.split()}

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return find


@contextmanager
def with_pkg_resources() -> Iterator[None]:
    """A stand-in for the module ``pkg_resources`` while packages are imported that ask it for a version alone.

    setuptools has dropped that module.
    """
    import importlib.metadata
    import importlib.util

    if "pkg_resources" in sys.modules or importlib.util.find_spec("pkg_resources") is not None:
        yield
        return
    stand_in = types.ModuleType("pkg_resources")
    stand_in.get_distribution = importlib.metadata.distribution  # type: ignore[attr-defined]
    sys.modules["pkg_resources"] = stand_in
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
