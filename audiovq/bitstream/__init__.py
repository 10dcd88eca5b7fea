"""The .avq format (docs/format.md): speech to bytes and back, checked."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiovq.bitstream.container import DamagedError
    from audiovq.bitstream.speech_file import CodingReport, decode_file, encode_file, load_encoded, save_encoded
    from audiovq.bitstream.speech_reader import FileInfo, inspect_file

_LAZY = {
    "CodingReport": "speech_file",
    "DamagedError": "container",
    "FileInfo": "speech_reader",
    "decode_file": "speech_file",
    "encode_file": "speech_file",
    "inspect_file": "speech_reader",
    "load_encoded": "speech_file",
    "save_encoded": "speech_file",
}

__all__ = [
    "CodingReport",
    "DamagedError",
    "FileInfo",
    "decode_file",
    "encode_file",
    "inspect_file",
    "load_encoded",
    "save_encoded",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"audiovq.bitstream.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'audiovq.bitstream' has no attribute {name!r}")
