"""Checksums in safetensors files, a format that has none of its own; `audiovq.io.checked` compares them."""

from __future__ import annotations

import json
from typing import Any

from audiovq.io import tensors_sha256

CHECKSUM = "sha256"
"""Entry of a file's metadata: the SHA-256 of all its tensors and of the rest of its header."""
_ALIGNMENT = 8


def split_header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header of a file, with its ``__metadata__`` where it has some, and where the tensors' data begins.

    Raises:
        ValueError: for a header that is damaged or cut off.
    """
    first = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:first])
    if not isinstance(header, dict):
        raise ValueError("its header is damaged")
    return header, first


def with_checksum(data: bytes) -> bytes:
    """A file with its checksum in the metadata. Raises `ValueError` for a file that is damaged."""
    header, first = split_header(data)
    header.setdefault("__metadata__", {})[CHECKSUM] = tensors_sha256(header, data[first:])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + data[first:]
