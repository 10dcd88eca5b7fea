"""Autoregressive priors over codes: likelihoods and sampling of speech and images.

`CodeSampler` and `SpeechSampler` need no PyTorch; a name is looked up at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiovq.errors import lazy

if TYPE_CHECKING:
    from audiovq.prior.model import CodePrior
    from audiovq.prior.networks import Condition
    from audiovq.prior.pixel import PixelPrior
    from audiovq.prior.sampler import CodeSampler, SpeechSampler
    from audiovq.prior.sampling import SamplingConfig
    from audiovq.prior.speech import SpeechPrior
    from audiovq.prior.weights import SpeakerDistribution

__all__ = ["CodePrior", "CodeSampler", "Condition", "PixelPrior"]
__all__ += ["SamplingConfig", "SpeakerDistribution", "SpeechPrior", "SpeechSampler"]

__getattr__ = lazy(
    __name__,
    model="CodePrior",
    networks="Condition",
    pixel="PixelPrior",
    sampler="CodeSampler SpeechSampler",
    sampling="SamplingConfig",
    speech="SpeechPrior",
    weights="SpeakerDistribution",
)
