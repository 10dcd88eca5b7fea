"""Autoregressive priors over codes: likelihoods, sampling, and speech out of nothing."""

from audiovq.prior.condition import Condition
from audiovq.prior.density import VoiceDensity
from audiovq.prior.model import CodePrior, Drawing
from audiovq.prior.pixel import PixelPrior
from audiovq.prior.speech import SpeechPrior

__all__ = ["CodePrior", "Condition", "Drawing", "PixelPrior", "SpeechPrior", "VoiceDensity"]
