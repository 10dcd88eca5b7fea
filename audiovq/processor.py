"""Compiling for this processor: what it can do, and where numba keeps what it compiled."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llvmlite import binding
from numba import njit
from numba.core import config as numba_config

from audiovq.files import cache_dir

logger = logging.getLogger(__name__)
config: Any = numba_config  # its settings are made at run time


def cpu_features() -> set[str]:
    """Names (LLVM's) of the instruction sets of the processor that numba compiles for."""
    if config.CPU_FEATURES is not None:
        return {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    return {name for name, present in binding.get_host_cpu_features().items() if present}


def cache_folder(sources: Sequence[str]) -> Path | None:
    """For compiled kernels: ``NUMBA_CACHE_DIR``, else under `audiovq.files.cache_dir`; None when not writable.

    It is named after the text of all ``sources``: numba alone would compile anew when the function's own file changes,
    and not when the intrinsics or functions change that it takes from other files.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return Path(os.environ["NUMBA_CACHE_DIR"])
    text = b"".join(Path(source).read_bytes() for source in sources)
    folder = cache_dir() / "kernels" / hashlib.sha256(text).hexdigest()[:12]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def compiled(sources: Sequence[str], function: Callable[..., Any], **options: Any) -> Any:
    """numba's njit without the global lock, with its cache in `cache_folder`."""
    folder, previous = cache_folder(sources), config.CACHE_DIR
    if folder is None:
        logger.warning("no folder to keep compiled kernels in: they are compiled anew at each start; set AUDIOVQ_CACHE")
        return njit(nogil=True, **options)(function)
    try:
        config.CACHE_DIR = str(folder)  # read when the decorator runs
        return njit(nogil=True, cache=True, **options)(function)
    finally:
        config.CACHE_DIR = previous
