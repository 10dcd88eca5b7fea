"""Files of tensors (safetensors): their headers, and a checksum in them, which the format itself does not have."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

CHECKSUM = "sha256"
"""Entry of a file's metadata: the SHA-256 of all its tensors and of the other metadata."""
_ALIGNMENT = 8


def split_header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header of a file, with its ``__metadata__`` where it has some, and where the tensors' data begins.

    Args:
        data: of the file, from its first byte to the end of its header at least.

    Raises:
        ValueError: for a header that is damaged or cut off.
    """
    first = 8 + int.from_bytes(data[:8], "little")
    if not 8 < first <= len(data):
        raise ValueError("it is cut off or damaged")
    header = json.loads(data[8:first])
    if not isinstance(header, dict):
        raise ValueError("its header is damaged")
    return header, first


def with_checksum(data: bytes) -> bytes:
    """A file with its checksum in the metadata.

    Args:
        data: of the file.

    Raises:
        ValueError: for a file that is damaged.
    """
    header, first = split_header(data)
    metadata = header.setdefault("__metadata__", {})
    metadata[CHECKSUM] = _checksum(header, data, first)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + data[first:]


def checked(data: bytes) -> bytes:
    """The file itself; one without a checksum, as other programs write it, is taken as it is.

    Args:
        data: of the file.

    Raises:
        ValueError: for a file that has changed since its checksum was made, or is damaged.
    """
    header, first = split_header(data)
    stated = header.get("__metadata__", {}).get(CHECKSUM)
    if stated is not None and stated != _checksum(header, data, first):
        raise ValueError("its checksum does not match its content")
    return data


def _checksum(header: dict[str, Any], data: bytes, first: int) -> str:
    metadata = {name: value for name, value in header.get("__metadata__", {}).items() if name != CHECKSUM}
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    digest = hashlib.sha256(json.dumps([metadata, entries], sort_keys=True).encode())
    digest.update(memoryview(data)[first:])
    return digest.hexdigest()


def stored_tensors(path: Path) -> tuple[dict[str, Any], int]:
    """What a file says of its tensors (``dtype``, ``shape``, ``data_offsets``), and where their data begins.

    Raises:
        ValueError: for a file that is damaged or cut off.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = file.read(8)
        if int.from_bytes(length, "little") > size:
            raise ValueError(f"{path.name} is damaged")
        entries, first = split_header(length + file.read(int.from_bytes(length, "little")))
    entries.pop("__metadata__", None)
    if first + max((entry["data_offsets"][1] for entry in entries.values()), default=0) != size:
        raise ValueError(f"{path.name} is cut off")
    return entries, first
