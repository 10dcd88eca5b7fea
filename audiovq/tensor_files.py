"""Writing a model's safetensors and JSON files, with checksums, which these formats have none of.

`audiovq.io.checked` and `audiovq.io.read_json` compare them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiovq.io import atomic_write, tensors_sha256

if TYPE_CHECKING:
    import numpy as np

CHECKSUM = "sha256"
"""Entry of a JSON file, or of a safetensors file's metadata: the SHA-256 of all else in it."""
#: Names of statistics of quantizers that only training reads; exported models leave them out.
TRAINING_BUFFER = re.compile(r"quantizer.*\.(?:sums|counts|age|steps|kept|seen)$")
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


def write_companion(path: Path, tensors: dict[str, np.ndarray], form: str, model_hash: bytes) -> None:
    """Write what `audiovq.hub.read_companion` reads: arrays that were made for a model's weights, with a checksum."""
    from safetensors.numpy import save

    metadata = {"format": f"audiovq {form}", "model_hash": model_hash.hex()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(with_checksum(save(tensors, metadata)))


def json_with_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """A mapping for a JSON file, with its checksum."""
    content = json.loads(json.dumps(content))  # keys and numbers as they will be read
    return {**content, CHECKSUM: tensors_sha256(content, b"")}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a mapping and its checksum to a JSON file."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(json_with_checksum(content), indent=2) + "\n")


def write_weights(tensors: dict[str, Any], config: dict[str, Any], folder: str | Path, dtype: Any = None) -> None:
    """As `audiovq.hub.save_weights`, for a configuration with more entries than the model's constructor takes."""
    import torch
    from safetensors.torch import save

    dtype, folder = dtype or torch.float16, Path(folder)
    kept = {
        name: (tensor.detach().to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in tensors.items()
        if not TRAINING_BUFFER.search(name)
    }
    with atomic_write(folder / "model.safetensors") as path:
        path.write_bytes(with_checksum(save(kept)))
    write_json(folder / "config.json", config)
