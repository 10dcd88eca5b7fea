"""Inputs and outputs: open paths, ``-`` or binary files with errors that name them in one line, write atomically."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from audiovq.errors import AudioVQError

#: What can be read or written: a path, ``-``, or an open binary file.
Place = str | Path | BinaryIO

_KEPT = 24
"""Characters of a target's stem, and of its suffix, that the name of its temporary file keeps."""


def cache_dir() -> Path:
    """The folder for data, runs and compiled kernels: ``$AUDIOVQ_CACHE``, or the platform's user cache folder."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("AUDIOVQ_CACHE") or user_cache_dir("audiovq"))


@contextmanager
def atomic_write(target: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``target`` (same suffix) and rename it over ``target`` when the block succeeds.

    The temporary file is removed when the block raises, so that a reader never meets a half-written file.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "a folder of its path is a file") from error
    with suppress(FileNotFoundError):
        target.stat()  # a name that is too long shows before anything is written
    # Cut by characters, which have up to four bytes: file systems take names of 255 bytes, and this one must fit where
    # the target's fits.
    suffix = target.suffix if len(target.suffix) <= _KEPT else ""
    handle, name = tempfile.mkstemp(prefix=f".{target.stem[:_KEPT]}-", suffix=suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp makes files private; give the permissions an ordinary open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_path(place: Any) -> bool:
    """Whether ``place`` names something in the file system."""
    return isinstance(place, str | Path) and str(place) != "-"


def shown(text: str | Path) -> str:
    """A file's name as text that can be written anywhere: bytes that are not UTF-8 become escapes such as ``\\xe9``."""
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def describe(place: Any, default: str = "standard input") -> str:
    """A name for messages; ``default`` is what ``-`` stands for."""
    if isinstance(place, str | Path):
        return shown(place) if is_path(place) else default
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
    with errors_about(shown(path)):
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


class Peekable:
    """A binary stream of any kind, with a look ahead that takes nothing away."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._ahead = stream, b""

    def peek(self, size: int) -> bytes:
        """The next ``size`` bytes; fewer only at the end. A pipe is waited for."""
        while len(self._ahead) < size and (data := self._stream.read(size - len(self._ahead))):
            self._ahead += data
        return self._ahead[:size]

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, fewer only at the end; all when it is negative."""
        if size < 0:
            parts, self._ahead = [self._ahead], b""
            while data := self._stream.read(1 << 20):
                parts.append(data)
            return b"".join(parts)
        data = self.peek(size)
        self._ahead = self._ahead[len(data) :]
        return data

    def read1(self, size: int = -1) -> bytes:
        """What is at hand, up to ``size`` bytes; a pipe is waited for only when nothing is."""
        if self._ahead:
            size = len(self._ahead) if size < 0 else size
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return getattr(self._stream, "read1", self._stream.read)(size)

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        self._stream.close()


_opened: dict[str, Peekable] = {}
"""Standard input, and named pipes that were looked into: what was taken out of them is in no other place."""


def _peekable(source: str) -> Peekable:
    """Standard input (``-``) or a named pipe; the same object until it is read."""
    if source not in _opened or (source == "-" and _opened["-"]._stream is not sys.stdin.buffer):
        with errors_about(describe(source)):
            _opened[source] = Peekable(sys.stdin.buffer if source == "-" else open(source, "rb"))  # noqa: SIM115
    return _opened[source]


def head_of(source: Place, size: int) -> bytes:
    """The first bytes of a path, of standard input (``-``), or of a binary file object; nothing is taken from it.

    Raises:
        AudioVQError: for a file that is missing, empty or not readable.
    """
    if isinstance(source, str | Path):
        if not is_path(source) or is_special(source):
            return _peekable(str(source)).peek(size)
        with open_input(source) as file:
            return file.read(size)
    if not source.seekable():
        return source.peek(size)[:size]  # type: ignore[attr-defined]
    start = source.tell()
    head = source.read(size)
    source.seek(start)
    return head


@contextmanager
def open_input(source: Place) -> Iterator[BinaryIO]:
    """The bytes of a path, of standard input (``-``), or of an open binary file, which is left open.

    Raises:
        AudioVQError: for a file that is missing, empty or not readable.
    """
    if isinstance(source, str | Path):
        if not is_path(source) or str(source) in _opened:
            ahead = _peekable(str(source))
            try:
                yield ahead  # type: ignore[misc]
            finally:
                del _opened[str(source)]
                if is_path(source):
                    ahead.close()
            return
        check_input(source)
        with errors_about(shown(source)):
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
    with errors_about(label, "written"):
        # Behind a symbolic link the file is replaced, not the link.
        path = Path(os.path.realpath(target))
        if path.is_dir():
            raise AudioVQError("is a folder; name a file")
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


def _is_live(stream: Any) -> bool:
    """Whether somebody may be waiting at the other end: a pipe, a socket, a device."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        return False
    return not stat.S_ISREG(mode)


class _Output:
    """A binary stream whose errors name the place that is written; what is written to a pipe goes out at once."""

    def __init__(self, stream: Any, label: str) -> None:
        self._stream, self.name = stream, label
        self._live = _is_live(stream)

    def write(self, data: bytes) -> int:
        with errors_about(self.name, "written"):
            n_written = self._stream.write(data)
            if self._live:
                self._stream.flush()
            return n_written

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


class Guard:
    """A stream for libraries in C, whose callbacks no exception can leave: the first is kept and raised afterwards."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._error: BaseException | None = None

    def _call(self, action: Any, *arguments: Any) -> Any:
        if self._error is None:
            try:
                return action(*arguments)
            except BaseException as error:
                self._error = error
        return 0

    def read(self, size: int) -> bytes:
        return self._call(self._stream.read, size) or b""

    def write(self, data: bytes) -> int:
        return self._call(self._stream.write, data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._call(self._stream.seek, offset, whence)

    def tell(self) -> int:
        return self._call(self._stream.tell)

    def seekable(self) -> bool:
        return self._stream.seekable()

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Raise what a callback met rather than what the library makes of it."""
        try:
            yield
        except Exception:
            if self._error is None:
                raise
        if self._error is not None:
            raise self._error


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checked(data: bytes) -> bytes:
    """A safetensors file itself, if it agrees with the checksum that `audiovq.tensor_files` has put into it, if any.

    Raises:
        ValueError: when it has changed since, or is damaged.
    """
    first = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:first])
    stated = header.get("__metadata__", {}).get("sha256")
    if stated is not None and stated != tensors_sha256(header, memoryview(data)[first:]):
        raise ValueError("its checksum does not match its content")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file, without its checksum, with which it has to agree where it has one; as `checked`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("not a mapping")
    stated = content.pop("sha256", None)
    if stated is not None and stated != tensors_sha256(content, b""):
        raise ValueError(f"the checksum of {path.name} does not match its content; remove it after a deliberate change")
    return content


def tensors_sha256(header: dict[str, Any], tensors: bytes | memoryview) -> str:
    """The checksum of a safetensors file with this header and these bytes; of JSON, with the mapping and no bytes."""
    entries = dict(header)
    metadata = {name: value for name, value in entries.pop("__metadata__", {}).items() if name != "sha256"}
    return hashlib.sha256(json.dumps([metadata, entries], sort_keys=True).encode() + tensors).hexdigest()


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
