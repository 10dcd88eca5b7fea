"""Opening what a user names, a path, ``-`` or an open binary file, with errors that name it in one line."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from audiovq.errors import AudioVQError
from audiovq.files import atomic_write

#: What can be read or written: a path, ``-``, or an open binary file.
Place = str | Path | BinaryIO


def is_path(place: Any) -> bool:
    """Whether ``place`` names something in the file system."""
    return isinstance(place, str | Path) and str(place) != "-"


def describe(place: Any, default: str = "standard input") -> str:
    """A name for messages; ``default`` is what ``-`` stands for."""
    if isinstance(place, str | Path):
        return str(place) if is_path(place) else default
    name = getattr(place, "name", None)
    return name if isinstance(name, str) else "the stream"


def is_special(path: str | Path) -> bool:
    """Whether the path is there and is neither a plain file nor a folder: a device, a named pipe."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextmanager
def errors_about(label: str, verb: str = "read") -> Iterator[None]:
    """Put ``label`` before messages of `AudioVQError` that name no file yet, and turn system errors into such ones.

    A broken pipe passes: the reader of our output has gone, which is nothing to complain about.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        named = AudioVQError(f"{label}: cannot be {verb}: {reason[:1].lower()}{reason[1:]}")
        named.about = label  # type: ignore[attr-defined]
        raise named from error
    except AudioVQError as error:
        if not hasattr(error, "about"):
            error.about = label  # type: ignore[attr-defined]
            error.args = (f"{label}: {error}",)
        raise


def check_input(path: str | Path) -> None:
    """See that there is a file to read.

    Raises:
        AudioVQError: for a file that is missing, a folder, empty, or not readable.
    """
    with errors_about(str(path)):
        try:
            status = os.stat(path)
        except FileNotFoundError:
            raise AudioVQError("no such file") from None
        if stat.S_ISDIR(status.st_mode):
            raise AudioVQError("is a folder, not a file")
        if stat.S_ISREG(status.st_mode) and status.st_size == 0:
            raise AudioVQError("is empty")
        if not os.access(path, os.R_OK):
            raise AudioVQError("cannot be read: permission denied")


@contextmanager
def open_input(source: Place) -> Iterator[BinaryIO]:
    """The bytes of a path, of standard input (``-``), or of an open binary file, which is left open.

    Raises:
        AudioVQError: for a file that is missing, empty or not readable.
    """
    if isinstance(source, str | Path):
        if str(source) == "-":
            yield sys.stdin.buffer
            return
        check_input(source)
        with errors_about(str(source)):
            stream = open(source, "rb")  # noqa: SIM115 - closed below, where errors of the caller are not ours to name
        with stream:
            yield stream
    else:
        yield source


def size_of(stream: Any) -> int | None:
    """Bytes of an open file; None for a pipe and for what is only in memory."""
    try:
        return os.fstat(stream.fileno()).st_size or None
    except (AttributeError, OSError, ValueError):
        return None


@contextmanager
def open_output(target: Place) -> Iterator[BinaryIO]:
    """A binary stream for a path, standard output (``-``), or an open binary file, which is left open.

    A file appears under its name only when the block ends well; until then, and after an error, nothing of it is seen.
    Devices and named pipes are written as the bytes come.

    Raises:
        AudioVQError: when the place cannot be written or is full.
    """
    label = describe(target, "standard output")
    if not isinstance(target, str | Path) or str(target) == "-":
        own: Any = sys.stdout.buffer if isinstance(target, str | Path) else target
        yield _Output(own, label)  # type: ignore[misc]
        with errors_about(label, "written"):
            if hasattr(own, "flush"):
                own.flush()
        return
    # Behind a symbolic link the file is replaced, not the link.
    path = Path(os.path.realpath(target))
    if path.is_dir():
        raise AudioVQError(f"{label}: is a folder; name a file")
    with errors_about(label, "written"):
        # In place where nothing can be renamed; `atomic_write` itself is entered by hand so that errors raised inside
        # the caller's block, which are about other files, pass unchanged.
        atomic = None if is_special(path) else atomic_write(path)
        stream = open(path if atomic is None else atomic.__enter__(), "wb" if atomic is None else "w+b")  # noqa: SIM115
    try:
        yield _Output(stream, label)  # type: ignore[misc]
        with errors_about(label, "written"):
            stream.close()
    except BaseException as error:
        with suppress(OSError):
            stream.close()
        if atomic is not None:
            atomic.__exit__(type(error), error, error.__traceback__)
        raise
    if atomic is not None:
        with errors_about(label, "written"):
            atomic.__exit__(None, None, None)


class _Output:
    """A binary stream whose errors name the place that is written."""

    def __init__(self, stream: Any, label: str) -> None:
        self._stream, self.name = stream, label

    def write(self, data: bytes) -> int:
        with errors_about(self.name, "written"):
            return self._stream.write(data)

    def flush(self) -> None:
        with errors_about(self.name, "written"):
            self._stream.flush()

    def seek(self, offset: int, whence: int = 0) -> int:
        with errors_about(self.name, "written"):
            return self._stream.seek(offset, whence)

    def seekable(self) -> bool:
        """Whether earlier bytes can be rewritten; standard output never: it may be appended to other things."""
        return self._stream is not getattr(sys.stdout, "buffer", None) and self._stream.seekable()

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)

    def tell(self) -> int:
        return self._stream.tell()
