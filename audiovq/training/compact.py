"""Training states as sets of small files: rounded as far as a size limit asks, replaced as a whole.

A set is ``state-STEP.json`` and the parts of one safetensors file, cut by size. A new set is written elsewhere and
moved in, and only then the old one is removed: whenever writing ends, there is a complete set.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiovq.errors import AudioVQError

log = logging.getLogger("audiovq")

AVERAGE, MODEL = "average.", "model."
_SCALE, _LOW, _EXACT_BELOW = "/scale", "/low", 1024


@dataclass(frozen=True)
class Limits:
    """What may be written.

    Attributes:
        file_bytes: of one file.
        total_bytes: of a whole set.
        files: number of files of a set.
    """

    file_bytes: int = 15 << 20
    total_bytes: int = 62 << 20
    files: int = 5


# -- rounding ---------------------------------------------------------------------------------------------------------
# Vectors, and tensors of less than _EXACT_BELOW numbers, are never rounded.


def linear_encode(tensor: Tensor, dtype: torch.dtype = torch.int8) -> dict[str, Tensor]:
    """Integers of ``dtype`` and a scale for each row: the row's largest magnitude becomes the largest integer."""
    rows = tensor.float().flatten(1)
    scale = rows.abs().amax(1, keepdim=True) / torch.iinfo(dtype).max
    return {"": torch.round(rows / scale.clamp_min(1e-38)).to(dtype), _SCALE: scale}


def linear_decode(parts: Mapping[str, Tensor], shape: list[int]) -> Tensor:
    """Inverse of `linear_encode`."""
    return (parts[""].float() * parts[_SCALE]).view(shape)


def logarithmic_encode(tensor: Tensor) -> dict[str, Tensor]:
    """8 bits for each number of at least 0, evenly spaced in the logarithm between the row's extremes; 0 stays 0."""
    rows = tensor.float().flatten(1)
    logs = torch.log(rows.clamp_min(1e-38))
    low = torch.where(rows > 0, logs, torch.full_like(logs, 88.0)).amin(1, keepdim=True)
    step = (logs.amax(1, keepdim=True) - low).clamp_min(1e-6) / 254
    codes = torch.where(rows > 0, 1 + torch.round((logs - low) / step), torch.zeros_like(rows))
    return {"": codes.to(torch.uint8), _SCALE: torch.cat([low, step], dim=1)}


def logarithmic_decode(parts: Mapping[str, Tensor], shape: list[int]) -> Tensor:
    """Inverse of `logarithmic_encode`."""
    low, step = parts[_SCALE].split(1, dim=1)
    codes = parts[""].float()
    return torch.where(codes > 0, torch.exp(low + (codes - 1) * step), torch.zeros_like(codes)).view(shape)


def trimmed_encode(tensor: Tensor) -> dict[str, Tensor]:
    """The upper 24 of a float32's 32 bits: relative errors below 2^-16."""
    bits = tensor.float().contiguous().view(torch.int32)
    bits = bits + 128  # to the nearest
    return {"": (bits >> 16).to(torch.int16), _LOW: ((bits >> 8) & 255).to(torch.uint8)}


def trimmed_decode(parts: Mapping[str, Tensor], shape: list[int]) -> Tensor:
    """Inverse of `trimmed_encode`."""
    bits = (parts[""].to(torch.int32) << 16) | (parts[_LOW].to(torch.int32) << 8)
    return bits.view(torch.float32).view(shape)


ENCODERS: dict[str, Callable[[Tensor], dict[str, Tensor]]] = {
    "linear": linear_encode,
    "linear16": partial(linear_encode, dtype=torch.int16),
    "logarithmic": logarithmic_encode,
    "trimmed": trimmed_encode,
}
DECODERS = {
    "linear": linear_decode,
    "linear16": linear_decode,
    "logarithmic": logarithmic_decode,
    "trimmed": trimmed_decode,
}
LEVELS: tuple[dict[str, str], ...] = (
    {},
    {"average": "linear", "exp_avg": "bfloat16", "exp_avg_sq": "bfloat16"},
    {"average": "linear", "exp_avg": "linear", "exp_avg_sq": "logarithmic", "model": "trimmed"},
    {"average": "linear", "exp_avg": "linear", "exp_avg_sq": "logarithmic", "model": "linear16"},
)
"""Roundings to choose from, finest first: by kind of tensor. Averaged weights are stored as differences."""


def round_state(tensors: Mapping[str, Tensor], level: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A state's tensors -> tensors to store, and how each original is to be restored."""
    stored: dict[str, Tensor] = {}
    how: dict[str, Any] = {}
    for name, tensor in tensors.items():
        kind = _kind(name)
        twin = tensors.get(MODEL + name.removeprefix(AVERAGE)) if kind == "average" else None
        method = LEVELS[level].get(kind)
        if twin is not None and twin.shape == tensor.shape and level and torch.equal(twin, tensor):
            how[name] = {"as": "same"}
        elif method is None or not tensor.is_floating_point() or tensor.dim() < 2 or tensor.numel() < _EXACT_BELOW:
            stored[name] = tensor
        elif method == "bfloat16":
            stored[name], how[name] = tensor.bfloat16(), {"as": "bfloat16"}
        elif kind != "average" or (twin is not None and twin.shape == tensor.shape):
            parts = ENCODERS[method](tensor if twin is None else tensor - twin)
            stored |= {name + suffix: part for suffix, part in parts.items()}
            how[name] = {"as": method, "shape": list(tensor.shape)}
        else:
            stored[name] = tensor
    return stored, how


def restore_state(stored: Mapping[str, Tensor], how: Mapping[str, Any]) -> dict[str, Tensor]:
    """Inverse of `round_state`, up to rounding."""
    suffixes = {name + suffix for name in how for suffix in (_SCALE, _LOW)}
    tensors = {name: tensor for name, tensor in stored.items() if name not in suffixes}
    for name in sorted(how, key=lambda name: name.startswith(AVERAGE)):  # averages after what they differ from
        method = how[name]["as"]
        twin = MODEL + name.removeprefix(AVERAGE)
        if method == "same":
            tensors[name] = tensors[twin].clone()
        elif method == "bfloat16":
            tensors[name] = stored[name].float()
        else:
            parts = {suffix: stored[name + suffix] for suffix in ("", _SCALE, _LOW) if name + suffix in stored}
            tensors[name] = DECODERS[method](parts, how[name]["shape"])
            if name.startswith(AVERAGE):
                tensors[name] = tensors[name] + tensors[twin]
    return tensors


def _kind(name: str) -> str:
    if name.startswith("optimizer/"):
        return name.rsplit("/", 1)[-1]
    return "average" if name.startswith(AVERAGE) else "model"


# -- sets of files ----------------------------------------------------------------------------------------------------


def encode_state(tensors: Mapping[str, Tensor], limits: Limits) -> bytes:
    """A state as one safetensors file, rounded no further than the limits ask.

    Raises:
        AudioVQError: when it exceeds them however it is rounded.
    """
    from safetensors.torch import save

    room = min(limits.total_bytes, limits.file_bytes * limits.files)
    for level in range(len(LEVELS)):
        stored, how = round_state(tensors, level)
        if sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) > room:
            continue
        unique = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in stored.items()}
        data = save(unique, {"how": json.dumps(how)})
        if len(data) <= room:
            return data
    raise AudioVQError(f"the state does not fit {room / 2**20:.0f} MiB: allow more, or larger files")


def decode_state(data: bytes) -> dict[str, Tensor]:
    """Inverse of `encode_state`, up to rounding."""
    from safetensors.torch import load

    length = int.from_bytes(data[:8], "little")
    how = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["how"])
    return restore_state(load(data), how)


def write_set(folder: Path, data: bytes, facts: Mapping[str, Any], limits: Limits) -> list[Path]:
    """Write a set to ``folder`` and remove the ones before. ``facts`` has ``step``, and goes into its JSON file."""
    name = f"state-{facts['step']:08d}"
    pieces = [data[i : i + limits.file_bytes] for i in range(0, len(data), limits.file_bytes)]
    parts: list[dict[str, Any]] = [
        {"name": f"{name}.{i}", "bytes": len(piece), "sha256": hashlib.sha256(piece).hexdigest()}
        for i, piece in enumerate(pieces)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    staging = _staging(folder)
    old = [path for path in folder.glob("state-*") if not path.name.startswith(name + ".")]
    try:
        for part, piece in zip(parts, pieces, strict=True):
            (staging / part["name"]).write_bytes(piece)
        (staging / f"{name}.json").write_text(json.dumps({**facts, "parts": parts}) + "\n")
        written = [folder / path.name for path in sorted(staging.iterdir())]
        for path in written:
            os.replace(staging / path.name, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for path in old:
        path.unlink(missing_ok=True)
    return written


def read_set(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The newest complete set in ``folder``: the state's tensors and its facts.

    Raises:
        AudioVQError: when there is none.
    """
    problem = "there is none"
    for path in sorted(folder.glob("state-*.json"), reverse=True):
        with suppress(OSError, ValueError, KeyError):
            facts = json.loads(path.read_text())
            data = [(folder / part["name"]).read_bytes() for part in facts["parts"]]
            wrong = [
                part["name"]
                for part, piece in zip(facts["parts"], data, strict=True)
                if hashlib.sha256(piece).hexdigest() != part["sha256"]
            ]
            if not wrong:
                return decode_state(b"".join(data)), {k: v for k, v in facts.items() if k != "parts"}
            problem = f"{wrong[0]} is damaged"
            continue
        problem = f"parts of {path.name} are missing"
    raise AudioVQError(f"no complete training state in {folder}: {problem}")


def _staging(folder: Path) -> Path:
    """An empty folder on the same file system, beside ``folder`` where that is possible."""
    beside = folder.parent / f".{folder.name}-new"
    for candidate in (beside, folder / ".new"):
        with suppress(OSError):
            shutil.rmtree(candidate, ignore_errors=True)
            candidate.mkdir()
            if candidate.stat().st_dev == folder.stat().st_dev:
                return candidate
            candidate.rmdir()
    raise AudioVQError(f"cannot write to {folder}")
