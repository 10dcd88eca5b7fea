"""Training states: a run's checkpoint, and sets of small files, rounded as far as a size limit asks.

A set is ``state-STEP.json`` and the parts of one safetensors file, cut by size. A new set is written elsewhere and
moved in, and only then the old one is removed: whenever writing ends, there is a complete set.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load, save, save_file
from torch import Tensor

from audiovq.errors import AudioVQError
from audiovq.io import atomic_write
from audiovq.tensor_files import write_weights
from audiovq.training.task import Task

CONFIG = "config.json"
"""A pack's configuration, and its copy beside results."""
AVERAGE, MODEL = "average.", "model."
_SCALE, _LOW, _EXACT_BELOW = "/scale", "/low", 1024


def state_of(task: Task) -> dict[str, Tensor]:
    """A checkpoint's tensors: the task's, and its optimizers' as ``optimizer/NAME/INDEX/KEY``."""
    tensors = dict(task.state_dict())
    for name, optimizer in task.optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{name}/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
    return tensors


def load_state(task: Task, tensors: Mapping[str, Tensor]) -> None:
    """Put a checkpoint's tensors into a task and its optimizers.

    Raises:
        RuntimeError: when they do not fit.
    """
    task.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer/")})
    for name, optimizer in task.optimizers.items():
        states: dict[int, dict[str, Any]] = {}
        for key, tensor in tensors.items():
            if key.startswith(f"optimizer/{name}/"):
                _, _, index, entry = key.split("/")
                states.setdefault(int(index), {})[entry] = tensor
        if states:
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def write_state(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint by renaming: an interrupted write leaves the last one. ``facts`` has ``step``."""
    unique = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    note = json.dumps(facts)
    with atomic_write(folder / "state.safetensors") as path:
        # Beside the weights in one file, so that both are of the same step.
        save_file(unique, path, {"step": str(facts["step"]), "state": note})
    with atomic_write(folder / "state.json") as path:
        path.write_text(note + "\n")


def read_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Inverse of `write_state`.

    Raises:
        AudioVQError: when the checkpoint is missing or damaged.
    """
    try:
        with safe_open(folder / "state.safetensors", "pt") as file:
            note = (file.metadata() or {}).get("state") or (folder / "state.json").read_text()
            facts = json.loads(note)
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except Exception as error:
        raise AudioVQError(f"cannot resume from {folder}: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class Limits:
    """Sizes of a file and of a whole set, and number of files of a set."""

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


METHODS: dict[str, tuple[Callable[[Tensor], dict[str, Tensor]], Callable[[Mapping[str, Tensor], Any], Tensor]]] = {
    "bfloat16": (lambda tensor: {"": tensor.bfloat16()}, lambda parts, _: parts[""].float()),
    "linear": (linear_encode, linear_decode),
    "linear16": (partial(linear_encode, dtype=torch.int16), linear_decode),
    "logarithmic": (logarithmic_encode, logarithmic_decode),
    "trimmed": (trimmed_encode, trimmed_decode),
}
"""Encoder and decoder of each rounding."""
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
        kind = name.rsplit("/", 1)[-1] if name.startswith("optimizer/") else "model"
        kind = "average" if name.startswith(AVERAGE) else kind
        twin = tensors.get(MODEL + name.removeprefix(AVERAGE)) if kind == "average" else None
        alike = twin is not None and twin.shape == tensor.shape
        method = LEVELS[level].get(kind)
        small = not tensor.is_floating_point() or tensor.dim() < 2 or tensor.numel() < _EXACT_BELOW
        if alike and level and torch.equal(twin, tensor):  # type: ignore[arg-type]
            how[name] = {"as": "same"}
        elif method is None or small or (kind == "average" and not alike):
            stored[name] = tensor
        else:
            parts = METHODS[method][0](tensor if twin is None else tensor - twin)
            stored |= {name + suffix: part for suffix, part in parts.items()}
            how[name] = {"as": method, "shape": list(tensor.shape)}
    return stored, how


def restore_state(stored: Mapping[str, Tensor], how: Mapping[str, Any]) -> dict[str, Tensor]:
    """Inverse of `round_state`, up to rounding."""
    suffixes = {name + suffix for name in how for suffix in (_SCALE, _LOW)}
    tensors = {name: tensor for name, tensor in stored.items() if name not in suffixes}
    for name in sorted(how, key=lambda name: name.startswith(AVERAGE)):  # averages after what they differ from
        method, twin = how[name]["as"], MODEL + name.removeprefix(AVERAGE)
        if method == "same":
            tensors[name] = tensors[twin].clone()
            continue
        parts = {suffix: stored[name + suffix] for suffix in ("", _SCALE, _LOW) if name + suffix in stored}
        tensors[name] = METHODS[method][1](parts, how[name].get("shape"))
        if name.startswith(AVERAGE):
            tensors[name] = tensors[name] + tensors[twin]
    return tensors


# -- sets of files ----------------------------------------------------------------------------------------------------


def encode_state(tensors: Mapping[str, Tensor], limits: Limits) -> bytes:
    """A state as one safetensors file, rounded no further than the limits ask.

    Raises:
        AudioVQError: when it exceeds them however it is rounded.
    """
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
    length = int.from_bytes(data[:8], "little")
    how = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["how"])
    return restore_state(load(data), how)


def write_set(folder: Path, data: bytes, facts: Mapping[str, Any], limits: Limits) -> list[Path]:
    """Write a set to ``folder`` and remove the ones before. ``facts`` has ``step``, and goes into its JSON file."""
    name, size = f"state-{facts['step']:08d}", limits.file_bytes
    pieces = {f"{name}.{i}": data[start : start + size] for i, start in enumerate(range(0, len(data), size))}
    parts = [
        {"name": part, "bytes": len(piece), "sha256": hashlib.sha256(piece).hexdigest()}
        for part, piece in pieces.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    staging = _staging(folder)
    old = [path for path in folder.glob("state-*") if not path.name.startswith(name + ".")]
    try:
        for part, piece in pieces.items():
            (staging / part).write_bytes(piece)
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
        try:
            facts = json.loads(path.read_text())
            parts = facts.pop("parts")
            data = [(folder / part["name"]).read_bytes() for part in parts]
            digests = zip(parts, map(hashlib.sha256, data), strict=True)
            wrong = [part["name"] for part, digest in digests if digest.hexdigest() != part["sha256"]]
            if not wrong:
                return decode_state(b"".join(data)), facts
            problem = f"{wrong[0]} is damaged"
        except (OSError, ValueError, KeyError):
            problem = f"parts of {path.name} are missing"
    raise AudioVQError(f"no complete training state in {folder}: {problem}")


def join(results: Path, folder: Path) -> int:
    """Make a run's folder out of a sitting's results: training goes on there. Averaged weights become ``latest``.

    Returns:
        The steps that are done.

    Raises:
        AudioVQError: when there is no complete set.
    """
    tensors, facts = read_set(results)
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((results / CONFIG).read_text()) if (results / CONFIG).is_file() else {}
    average = {name.removeprefix(AVERAGE): t for name, t in tensors.items() if name.startswith(AVERAGE)}
    if average and isinstance(config.get("model"), dict):
        write_weights(average, config["model"], folder / "latest")
    write_state(folder, tensors, facts)
    return facts["step"]


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
