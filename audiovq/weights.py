"""Weights on disk: ``config.json`` holds exactly a constructor's arguments, ``model.safetensors`` the tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from audiovq.errors import AudioVQError
from audiovq.files import atomic_write, cache_dir

#: Folder of the models that came with the package.
BUNDLED = Path(__file__).resolve().parent / "pretrained"
#: Buffers of quantizers that only training reads; exported models leave them out.
TRAINING_BUFFERS = ("sums", "counts", "age", "steps", "kept", "seen")


def is_training_buffer(name: str) -> bool:
    """Whether a tensor of a state dict is a statistic that only training reads."""
    return "quantizer" in name and name.rsplit(".", 1)[-1] in TRAINING_BUFFERS


def model_path(name: str | Path) -> Path:
    """The folder of weights by its path, as ``runs/NAME[/latest]`` in the cache, or by a bundled model's name.

    Raises:
        AudioVQError: when there is none.
    """
    for folder in (Path(name), cache_dir() / name, cache_dir() / name / "best", BUNDLED / name):
        if (folder / "model.safetensors").is_file():
            return folder
    raise AudioVQError(f"no weights in {name}: give a folder, a run (runs/NAME/latest) or a bundled model")


def save_weights(model: Any, folder: str | Path, dtype: Any = None) -> None:
    """Write ``model.config`` and its tensors; floating-point ones are stored as ``dtype``, float16 by default.

    With ``torch.int8`` parameters of two and more dimensions are stored in 8 bits with a scale for each of the first,
    all else as float16.
    """
    import torch

    from audiovq.rounding import SCALE, round_rows

    tensors = model.state_dict()
    if dtype == torch.int8:
        dtype = None
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                rows, tensors[name + SCALE] = round_rows(weight.flatten(1))
                tensors[name] = rows.view_as(weight)
    write_weights(tensors, model.config, folder, dtype)


def write_weights(tensors: dict[str, Any], config: dict[str, Any], folder: str | Path, dtype: Any = None) -> None:
    """As `save_weights`, for a configuration that says more than the model's own."""
    import torch
    from safetensors.torch import save

    dtype, folder = dtype or torch.float16, Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {
        name: (tensor.detach().to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in tensors.items()
        if not is_training_buffer(name)
    }
    with atomic_write(folder / "model.safetensors") as path:
        path.write_bytes(save(kept))  # save_file would make the file private
    with atomic_write(folder / "config.json") as path:
        path.write_text(json.dumps(config, indent=2) + "\n")


def load_weights(kind: Any, folder: str | Path) -> Any:
    """``kind(**config)`` with its weights, in evaluation mode.

    Raises:
        AudioVQError: when the files are not there, damaged, or do not fit each other.
    """
    from safetensors.torch import load

    from audiovq.rounding import restore

    folder = Path(folder)
    try:
        model = kind(**json.loads((folder / "config.json").read_text()))
        data = (folder / "model.safetensors").read_bytes()
        missing, unknown = model.load_state_dict(restore(load(data)), strict=False)
        wrong = [name for name in missing if not is_training_buffer(name)] + list(unknown)
        if wrong:
            raise ValueError(f"the configuration does not fit the weights ({wrong[0]})")
    except Exception as error:
        raise AudioVQError(f"the model in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    return model.eval()
