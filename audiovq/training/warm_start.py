"""Begin a run from another model's weights, as far as they fit."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from audiovq.speech.checkpoint import load_codec
from audiovq.speech.codec import SpeechCodec

log = logging.getLogger("audiovq")


def warm_start(codec: SpeechCodec, source: str | Path) -> list[str]:
    """Copy all weights of the same name and shape from a model folder or a bundled model.

    A codebook is taken whole or not at all: its vectors make no sense with another one's statistics. When one of a
    quantizer's books is not taken, none is, and they start from data as in a new run.

    Returns:
        Names of the modules (or tensors) that stay as they were.

    Raises:
        AudioVQError: when there is no such model.
    """
    theirs = load_codec(source).state_dict()
    own = codec.state_dict()
    refused = {name for name, tensor in own.items() if name not in theirs or theirs[name].shape != tensor.shape}
    refused = {name for name in refused if not _grows(name)}
    if any(name.startswith("quantizer.") for name in refused):
        refused |= {name for name in own if name.startswith("quantizer.")}
    taken = {
        name: tensor for name, tensor in theirs.items() if name in own and name not in refused and not _grows(name)
    }
    codec.load_state_dict({**own, **taken})
    left = sorted({_module_of(codec, name) for name in refused})
    log.info("weights of %s: %d tensors taken, %s", source, len(taken), _told(left))
    return left


def _grows(name: str) -> bool:
    """What a quantizer keeps until its start changes its shape."""
    return name.startswith("quantizer.start.")


def _module_of(codec: nn.Module, name: str) -> str:
    return "quantizer" if name.startswith("quantizer.") else name.rpartition(".")[0]


def _told(left: list[str]) -> str:
    return f"new: {', '.join(left)}" if left else "nothing new"
