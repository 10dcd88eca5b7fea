"""Folders of recordings and shards, on this machine or by a URL that fsspec knows (``s3://bucket/folder``, ``gs://``).

Local names are handled by the file system alone; a URL needs fsspec and what it needs for that protocol.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from audiovq.errors import AudioVQError
from audiovq.io import atomic_write, shown


def is_url(place: Any) -> bool:
    """Whether a name is one of fsspec's rather than a local path."""
    return isinstance(place, str) and "://" in place


def file_system(place: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it.

    Raises:
        AudioVQError: when fsspec or the package for its protocol is missing, or the URL is none.
    """
    try:
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(place)
    except ImportError as error:
        raise AudioVQError(f"{place}: pip install 'audiovq[ray]' for URLs ({error})") from None
    except (ValueError, OSError) as error:
        raise AudioVQError(f"{place}: cannot be opened: {_line(error)}") from error
    return fs, path


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:1].lower() + text[1:200]


@contextmanager
def _remote(place: str) -> Iterator[None]:
    """Errors of a remote store in one line; libraries of stores raise all kinds."""
    try:
        yield
    except (AudioVQError, FileNotFoundError):
        raise
    except Exception as error:
        raise AudioVQError(f"{place}: {_line(error)}") from error


def find_files(root: str) -> dict[str, int]:
    """Path below ``root`` -> bytes, of all files of a remote folder; `AudioVQError` when it cannot be listed."""
    fs, path = file_system(root)
    try:
        with _remote(root):
            found = fs.find(path, detail=True)
    except FileNotFoundError:
        raise AudioVQError(f"{root}: no such folder") from None
    start = len(path.rstrip("/")) + 1
    return {name[start:]: int(about.get("size") or 0) for name, about in found.items()}


@contextmanager
def local_copy(place: str) -> Iterator[Path]:
    """A file on this machine with the bytes of a URL; deleted behind the block.

    Raises:
        AudioVQError: when it is not there or cannot be read.
    """
    fs, path = file_system(place)
    with tempfile.TemporaryDirectory(prefix="audiovq-") as folder:
        target = Path(folder) / f"recording{Path(path).suffix}"
        try:
            with _remote(place):
                fs.get_file(path, str(target))
        except FileNotFoundError:
            raise AudioVQError(f"{place}: no such file") from None
        yield target


def read_text(place: str) -> str:
    """The text of a file by URL or local path.

    Raises:
        FileNotFoundError: when there is none.
        AudioVQError: when it cannot be read.
    """
    if not is_url(place):
        return Path(place).read_text(encoding="utf-8")
    fs, path = file_system(place)
    with _remote(place):
        return fs.cat_file(path).decode("utf-8")


def modified(place: str) -> float:
    """When a file was written, in seconds since 1970."""
    if not is_url(place):
        return Path(place).stat().st_mtime
    fs, path = file_system(place)
    with _remote(place):
        return fs.modified(path).timestamp()


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file, where the system can; `AudioVQError` that says ``busy`` when another process does."""
    with path.open("w") as file:
        with suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AudioVQError(busy) from None
            except OSError:  # some file systems cannot lock
                pass
        yield


class Folder:
    """A folder in which files are read and written by name, local or remote.

    Args:
        place: a path or a URL.
    """

    def __init__(self, place: str | Path) -> None:
        self.name, self.url = shown(place), str(place).rstrip("/")
        #: Where it is on this machine; None for a remote one.
        self.path: Path | None = None if is_url(place) else Path(place)
        if self.path is None:
            self._fs, self._root = file_system(self.url)
            if self.url.startswith(("file://", "local://")):
                self.path = Path(self._root)

    def at(self, name: str) -> str:
        """The full name of a file."""
        return f"{self.url}/{name}" if self.path is None else str(self.path / name)

    def read(self, name: str) -> str:
        """The text of a file.

        Raises:
            FileNotFoundError: when there is none.
        """
        return read_text(self.at(name))

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when there is none."""
        try:
            if self.path is not None:
                return (self.path / name).stat().st_size
            with _remote(self.at(name)):
                self._fs.invalidate_cache()
                return int(self._fs.size(f"{self._root}/{name}"))
        except OSError:
            return None

    def glob(self, pattern: str) -> list[str]:
        """Names of the files that match."""
        if self.path is not None:
            return [str(path.relative_to(self.path)) for path in self.path.glob(pattern) if path.is_file()]
        with _remote(self.url):
            self._fs.invalidate_cache()
            return [path[len(self._root) + 1 :] for path in self._fs.glob(f"{self._root}/{pattern}")]

    def remove(self, name: str) -> None:
        """Delete a file."""
        if self.path is not None:
            (self.path / name).unlink()
        else:
            with _remote(self.at(name)):
                self._fs.rm_file(f"{self._root}/{name}")

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A temporary local file that takes its place under ``name`` when the block ends well.

        Raises:
            AudioVQError: when it cannot be written.
        """
        try:
            if self.path is not None:
                with atomic_write(self.path / name) as temporary:
                    yield temporary
                return
            with tempfile.TemporaryDirectory(prefix="audiovq-") as folder:
                temporary = Path(folder) / Path(name).name
                yield temporary
                with _remote(self.at(name)):
                    self._fs.makedirs(f"{self._root}/{name}".rsplit("/", 1)[0], exist_ok=True)
                    self._fs.put_file(str(temporary), f"{self._root}/{name}")
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise AudioVQError(f"{self.at(name)}: cannot be written: {reason[:1].lower()}{reason[1:]}") from error
