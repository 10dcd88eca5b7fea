"""The .avq format (docs/format.md): speech to bytes and back, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiovq.errors import lazy

if TYPE_CHECKING:
    from audiovq.bitstream.container import DamagedError
    from audiovq.bitstream.speech_file import CodingReport, decode_file, encode_file, load_encoded, save_encoded
    from audiovq.bitstream.speech_reader import FileInfo, inspect_file

__all__ = ["CodingReport", "DamagedError", "FileInfo", "decode_file", "encode_file"]
__all__ += ["inspect_file", "load_encoded", "save_encoded"]

__getattr__ = lazy(
    __name__,
    container="DamagedError",
    speech_file="CodingReport decode_file encode_file load_encoded save_encoded",
    speech_reader="FileInfo inspect_file",
)
