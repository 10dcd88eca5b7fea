"""Where files live, and how they are written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_KEPT = 24
"""Characters of a target's stem, and of its suffix, that the name of its temporary file keeps."""


def cache_dir() -> Path:
    """The folder for data, runs and compiled kernels: ``$AUDIOVQ_CACHE``, or the platform's user cache folder."""
    from platformdirs import user_cache_dir

    override = os.environ.get("AUDIOVQ_CACHE")
    return Path(override) if override else Path(user_cache_dir("audiovq"))


@contextmanager
def atomic_write(target: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``target`` (same suffix) and rename it over ``target`` when the block succeeds.

    The temporary file is removed when the block raises, so that a reader never meets a half-written file.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
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
