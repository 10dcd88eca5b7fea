"""Network blocks that two or more pipelines use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audiovq.hub import load_weights, save_weights
from audiovq.nn.convolutions import ChannelNorm, DilatedResidualUnit, GatedLayer
from audiovq.nn.distributions import LogisticMixture, MuLawCategorical
from audiovq.nn.sequence import Transformer, WaveNetStack

__all__ = [
    "ChannelNorm",
    "DilatedResidualUnit",
    "GatedLayer",
    "LogisticMixture",
    "MuLawCategorical",
    "Stored",
    "Transformer",
    "WaveNetStack",
]


class Stored:
    """A module with a ``config``, its constructor's arguments, that can be kept in a folder."""

    def save(self, folder: str | Path, dtype: Any = None) -> None:
        """Write ``config.json`` and ``model.safetensors``; weights as ``dtype``, float16 by default."""
        save_weights(self, folder, dtype)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Any:
        """Load a folder that `save` wrote.

        Raises:
            AudioVQError: when it is not there or damaged.
        """
        return load_weights(cls, folder)
