"""Debian packages as a source of recordings: fetched by name, unpacked without being installed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from audiovq.errors import AudioVQError

ASTERISK = ("en", "es", "fr", "it", "ru")
PACKAGES = (
    *(f"asterisk-core-sounds-{language}-g722" for language in ASTERISK),
    *(f"asterisk-core-sounds-{language}" for language in ASTERISK),
    "tuxpaint-stamps-default",
    "fillets-ng-data",
    "fillets-ng-data-cs",
    "fillets-ng-data-nl",
    "ktuberling-data",
)


def find_debs(folder: Path) -> dict[str, Path]:
    """The .deb files of `PACKAGES` in a folder, by package name; the newest file of each."""
    found = {}
    for path in sorted(folder.glob("*.deb"), key=lambda path: path.stat().st_mtime):
        name = path.name.split("_")[0]
        if name in PACKAGES:
            found[name] = path
    return found


def fetch(folder: Path) -> dict[str, Path]:
    """Make sure that ``folder`` holds the .deb file of each of `PACKAGES`, by ``apt-get download``; their paths.

    Raises:
        AudioVQError: when a package is missing and cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if name not in find_debs(folder)]
    if missing:
        if shutil.which("apt-get") is None:
            raise AudioVQError(f"no apt-get here: put the .deb files of {', '.join(missing)} into {folder}")
        result = subprocess.run(["apt-get", "download", *missing], cwd=folder, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["it failed"])[-1]
            raise AudioVQError(f"apt-get download: {reason} (try `apt-get update` first)")
    return find_debs(folder)


def unpack(debs: Iterable[Path], folder: Path) -> None:
    """Unpack .deb files into one tree."""
    if shutil.which("dpkg") is None:
        raise AudioVQError("unpacking .deb files needs the dpkg command")
    folder.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        result = subprocess.run(["dpkg", "-x", str(deb), str(folder)], capture_output=True, text=True)
        if result.returncode:
            raise AudioVQError(f"cannot unpack {deb}: {result.stderr.strip()}; delete it and fetch it again")


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
