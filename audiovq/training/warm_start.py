"""Begin a run from another model's weights, as far as they fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from audiovq.errors import AudioVQError
from audiovq.speech.codec import SpeechCodec

log = logging.getLogger("audiovq")

PARTS = ("encoder", "quantizer", "speaker_encoder", "decoder")
"""Of a speech codec, as `frozen` and `warm_start` name them."""


def warm_start(codec: SpeechCodec, source: str | Path | Mapping[str, str | Path]) -> list[str]:
    """Copy all weights of the same name and shape from a model folder or a bundled model.

    Several models give a part each when ``source`` is a mapping from parts (``encoder, quantizer, speaker_encoder,
    decoder``) to models: parts that it does not name stay as they were.

    A codebook is taken whole or not at all: its vectors make no sense with another one's statistics. When one of a
    quantizer's books is not taken, none is, and they start from data as in a new run.

    Returns:
        Names of the modules (or tensors) that stay as they were.

    Raises:
        AudioVQError: when there is no such model or part.
    """
    if isinstance(source, Mapping):
        if unknown := set(source) - set(PARTS):
            raise AudioVQError(f"training.init_from names parts of the codec, and {min(unknown)} is none")
        return sorted(name for part, model in source.items() for name in _take(codec, model, f"{part}."))
    return _take(codec, source, "")


def _take(codec: SpeechCodec, source: str | Path, part: str) -> list[str]:
    """Copy the weights whose names begin with ``part``; returns what stays of those."""
    theirs = SpeechCodec.from_pretrained(source).state_dict()
    own = {name: tensor for name, tensor in codec.state_dict().items() if name.startswith(part)}
    refused = {name for name, tensor in own.items() if name not in theirs or theirs[name].shape != tensor.shape}
    refused = {name for name in refused if not _grows(name)}
    if any(name.startswith("quantizer.") for name in refused):
        refused |= {name for name in own if name.startswith("quantizer.")}
    taken = {
        name: tensor for name, tensor in theirs.items() if name in own and name not in refused and not _grows(name)
    }
    codec.load_state_dict({**codec.state_dict(), **taken})
    left = sorted({_module_of(codec, name) for name in refused})
    log.info("weights, %s%s: %d tensors taken, %s", part and f"{part[:-1]} of ", source, len(taken), _told(left))
    return left


def _grows(name: str) -> bool:
    """What a quantizer keeps until its start changes its shape."""
    return name.startswith("quantizer.start.")


def _module_of(codec: nn.Module, name: str) -> str:
    return "quantizer" if name.startswith("quantizer.") else name.rpartition(".")[0]


def _told(left: list[str]) -> str:
    return f"new: {', '.join(left)}" if left else "nothing new"
