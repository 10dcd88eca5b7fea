"""Kernels compiled by numba: the processor that they are for, and their cache on disk, which may be damaged."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import llvmlite
from llvmlite import binding
from numba import njit
from numba.core import config as numba_config
from numba.core.caching import FunctionCache, IndexDataCacheFile

from audiovq.io import cache_dir

logger = logging.getLogger(__name__)
config: Any = numba_config  # its settings are made at run time

_DIGEST_BYTES = 32


def cpu_features() -> set[str]:
    """Names (LLVM's) of the instruction sets of the processor that numba compiles for."""
    if config.CPU_FEATURES is not None:
        return {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    return {name for name, present in binding.get_host_cpu_features().items() if present}


def cache_folder(sources: Sequence[str]) -> Path | None:
    """For compiled kernels: ``NUMBA_CACHE_DIR``, else under `audiovq.io.cache_dir`; None when not writable.

    It is named after the text of all ``sources``: numba alone would compile anew when the function's own file changes,
    and not when the intrinsics or functions change that it takes from other files.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        folder = Path(os.environ["NUMBA_CACHE_DIR"])
    else:
        text = b"".join(Path(source).read_bytes() for source in sources)
        folder = cache_dir() / "kernels" / hashlib.sha256(text).hexdigest()[:12]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def compiled(sources: Sequence[str], function: Callable[..., Any], **options: Any) -> Any:
    """numba's njit without the global lock, with its cache in `cache_folder`."""
    dispatcher: Any = njit(nogil=True, **options)(function)
    folder, previous = cache_folder(sources), config.CACHE_DIR
    if folder is None:
        _warn_uncached(os.environ.get("NUMBA_CACHE_DIR") or str(cache_dir()), "it cannot be written")
        return dispatcher
    try:
        config.CACHE_DIR = str(folder)  # read by the constructor
        # What njit's ``cache=True`` does, with a cache that survives damage.
        dispatcher._cache = _Cache(function)
    finally:
        config.CACHE_DIR = previous
    return dispatcher


@cache
def _warn_uncached(folder: str, reason: str) -> None:
    """Warn once, whatever the number of kernels."""
    logger.warning(f"no cache for compiled kernels in {folder}: {reason}; they are compiled anew at each start")


class _Cache(FunctionCache):
    """numba's cache of one function. Damaged files are compiled anew, files that cannot be written are left out."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        locator = self._impl.locator
        self._cache_file = _CacheFile(self._cache_path, self._impl.filename_base, locator.get_source_stamp())

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn_uncached(self._cache_path, (error.strerror or str(error)).lower())


class _CacheFile(IndexDataCacheFile):
    """numba's two files of a function, each followed by its digest.

    numba unpickles whatever stands there, and LLVM runs it: a file that was cut off raises errors of any type, one
    with other bytes may end the process.
    """

    def __init__(self, cache_path: str, filename_base: str, source_stamp: Any) -> None:
        super().__init__(cache_path, filename_base, source_stamp)
        self._version = f"{self._version} {llvmlite.__version__}"

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[BinaryIO]:
        with super()._open_for_write(filepath) as file, io.BytesIO() as buffer:
            yield buffer
            content = buffer.getvalue()
            file.write(content + hashlib.sha256(content).digest())

    def _load_index(self) -> dict[Any, str]:
        return super()._load_index() if _is_whole(self._index_path) else {}

    def _load_data(self, name: str) -> Any:
        if not _is_whole(self._data_path(name)):
            raise OSError(f"{name} is damaged")  # to numba the same as a file that is missing
        return super()._load_data(name)


def _is_whole(path: str) -> bool:
    """Whether a file of the cache is there and has the bytes that were written."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(data[:-_DIGEST_BYTES]).digest() == data[-_DIGEST_BYTES:]
