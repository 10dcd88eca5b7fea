"""Autoregressive priors over codes: likelihoods and sampling of speech and images.

`CodeSampler` and `SpeechSampler` need no PyTorch; a name is looked up at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiovq.prior.model import CodePrior
    from audiovq.prior.networks import Condition
    from audiovq.prior.pixel import PixelPrior
    from audiovq.prior.sampler import CodeSampler, SpeechSampler
    from audiovq.prior.sampling import SamplingConfig
    from audiovq.prior.speakers import SpeakerDistribution
    from audiovq.prior.speech import SpeechPrior

_LAZY = {
    "CodePrior": "model",
    "CodeSampler": "sampler",
    "Condition": "networks",
    "PixelPrior": "pixel",
    "SamplingConfig": "sampling",
    "SpeakerDistribution": "speakers",
    "SpeechPrior": "speech",
    "SpeechSampler": "sampler",
}

__all__ = [
    "CodePrior",
    "CodeSampler",
    "Condition",
    "PixelPrior",
    "SamplingConfig",
    "SpeakerDistribution",
    "SpeechPrior",
    "SpeechSampler",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"audiovq.prior.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'audiovq.prior' has no attribute {name!r}")
