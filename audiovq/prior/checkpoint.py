"""Priors on disk: ``config.json`` has the constructor's arguments, ``model.safetensors`` 8-bit weights and the voices.

Matrices are stored as int8 rows with a float32 scale for each (``NAME`` and ``NAME.row_scale``), all else as float32.
What is loaded is thus what the compiled sampler works with, exactly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from audiovq.errors import AudioVQError
from audiovq.files import atomic_write
from audiovq.prior.density import VoiceDensity
from audiovq.prior.model import CodePrior
from audiovq.rounding import SCALE, restore, round_rows

FOLDER = "prior"
"""A codec's prior lies in this folder beside the codec's weights."""
_VOICES = "voices."


def is_matrix(name: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor of a prior is stored in 8 bits: all matrices but the conditions', which are small."""
    return tensor.dim() > 1 and tensor.is_floating_point() and not name.startswith("conditioner.")


def rounded(prior: CodePrior) -> dict[str, torch.Tensor]:
    """The weights as they come back from a file."""
    return restore(_store(prior))


def _store(prior: CodePrior) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, tensor in prior.state_dict().items():
        tensor = tensor.detach().cpu()
        if is_matrix(name, tensor):
            tensors[name], tensors[name + SCALE] = round_rows(tensor)
        else:
            tensors[name] = tensor.float().contiguous()
    return tensors


def save_prior(prior: CodePrior, folder: str | Path, voices: VoiceDensity | None = None) -> None:
    """Write configuration, weights and voices."""
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _store(prior)
    if voices is not None:
        tensors |= {_VOICES + name: torch.from_numpy(value) for name, value in voices.tensors().items()}
    with atomic_write(folder / "model.safetensors") as path:
        path.write_bytes(save(tensors))
    with atomic_write(folder / "config.json") as path:
        path.write_text(json.dumps(prior.config, indent=2) + "\n")


def check_prior(folder: Path) -> None:
    """See that there is a prior, without loading it.

    Raises:
        AudioVQError: when there is none.
    """
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise AudioVQError(
            f"no prior in {folder}: train one with `audiovq train experiment=prior_debian`, with task.codec=MODEL for "
            "another codec than the default"
        )


def load_prior(folder: str | Path, codec: Any = None) -> tuple[CodePrior, VoiceDensity | None]:
    """Read a prior's folder; with a codec, see that the prior is for its codes.

    Raises:
        AudioVQError: when there is none, when it is damaged, or when it was trained on another codec's codes.
    """
    from safetensors.torch import load

    folder = Path(folder)
    check_prior(folder)
    try:
        prior = CodePrior(**json.loads((folder / "config.json").read_text()))
        tensors = load((folder / "model.safetensors").read_bytes())
        own = {name: tensor for name, tensor in tensors.items() if not name.startswith(_VOICES)}
        prior.load_state_dict(restore(own))
        voices = {n.removeprefix(_VOICES): t.numpy() for n, t in tensors.items() if n.startswith(_VOICES)}
        density = VoiceDensity.from_tensors(voices) if voices else None
    except Exception as error:
        raise AudioVQError(f"the prior in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    if codec is not None and prior.codec != codec.model_hash.hex():
        raise AudioVQError(
            f"the prior in {folder} was trained on codes of model {prior.codec or 'none'}, not on those of "
            f"{codec.name} ({codec.model_hash.hex()}); train one on them: audiovq train experiment=prior_debian"
        )
    return prior.eval(), density
