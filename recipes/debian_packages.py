"""Debian packages as a source of data: downloaded by name, unpacked without being installed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from audiovq.errors import AudioVQError


def find_debs(folder: Path, packages: Sequence[str]) -> dict[str, Path]:
    """The newest .deb file of each package in a folder, by package name."""
    paths = {}
    for path in sorted(folder.glob("*.deb"), key=lambda path: path.stat().st_mtime):
        name = path.name.split("_")[0]
        if name in packages:
            paths[name] = path
    return paths


def fetch(folder: Path, packages: Sequence[str]) -> dict[str, Path]:
    """Download the .deb files of packages that ``folder`` lacks, by ``apt-get download``; the paths of all of them.

    Raises:
        AudioVQError: when a package is missing and cannot be downloaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    present = find_debs(folder, packages)
    missing = [name for name in packages if name not in present]
    if missing:
        if shutil.which("apt-get") is None:
            raise AudioVQError(f"no apt-get here: put the .deb files of {', '.join(missing)} into {folder}")
        result = subprocess.run(["apt-get", "download", *missing], cwd=folder, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["it failed"])[-1]
            raise AudioVQError(f"apt-get download: {reason} (try `apt-get update` first)")
    return find_debs(folder, packages)


def unpack(debs: Iterable[Path], folder: Path) -> None:
    """Unpack .deb files into one tree.

    Raises:
        AudioVQError: when there is no dpkg command or a file is damaged.
    """
    if shutil.which("dpkg") is None:
        raise AudioVQError("unpacking .deb files needs the dpkg command")
    folder.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        result = subprocess.run(["dpkg", "-x", str(deb), str(folder)], capture_output=True, text=True)
        if result.returncode:
            raise AudioVQError(f"cannot unpack {deb}: {result.stderr.strip()}; delete it and fetch it again")


def sha256_of(path: Path) -> str:
    """The SHA-256 sum of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
