"""Autoregressive priors over codes: likelihoods and sampling of speech and images."""

from audiovq.prior.model import CodePrior
from audiovq.prior.networks import Condition, SamplingConfig
from audiovq.prior.pixel import PixelPrior
from audiovq.prior.speech import SpeakerDistribution, SpeechPrior

__all__ = ["CodePrior", "Condition", "PixelPrior", "SamplingConfig", "SpeakerDistribution", "SpeechPrior"]
