"""The files of samples: their names, and whether they can be written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from audiovq.errors import AudioVQError
from audiovq.io import errors_about


def plan_samples(folder: Path, n: int, suffixes: tuple[str, str], format: str, force: bool) -> list[list[Path]]:
    """The files of each sample.

    Args:
        folder: of all of them.
        n: samples.
        suffixes: of a decoded sample, and ``.avq``.
        format: one of the suffixes without its dot, or "both".
        force: overwrite.

    Raises:
        AudioVQError: for another format, and for files that are in the way.
    """
    formats = {suffix[1:]: (suffix,) for suffix in suffixes} | {"both": suffixes}
    if format not in formats:
        raise AudioVQError(f"--format is {', '.join(formats)}, not {format!r}")
    if folder.exists() and not folder.is_dir():
        raise AudioVQError(f"{folder} is a file; samples need a folder")
    digits = max(2, len(str(n)))
    targets = [[folder / f"sample-{i:0{digits}d}{suffix}" for suffix in formats[format]] for i in range(1, n + 1)]
    for path in (path for paths in targets for path in paths):
        if path.is_dir():
            raise AudioVQError(f"{path}: is a folder")
        if path.exists() and not force:
            raise AudioVQError(f"{path} exists; -f overwrites it")
    return targets


def check_folder(folder: Path) -> None:
    """Make the folder and check that files can be written, before minutes of sampling.

    Raises:
        AudioVQError: when they cannot.
    """
    with errors_about(str(folder), "written"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
