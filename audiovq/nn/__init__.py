"""Network blocks that two or more pipelines use."""

from audiovq.nn.distributions import LogisticMixture, MuLawCategorical
from audiovq.nn.gated_pixelcnn import GatedLayer
from audiovq.nn.residual import ChannelNorm, DilatedResidualUnit
from audiovq.nn.transformer import Transformer
from audiovq.nn.wavenet_stack import WaveNetStack

__all__ = [
    "ChannelNorm",
    "DilatedResidualUnit",
    "GatedLayer",
    "LogisticMixture",
    "MuLawCategorical",
    "Transformer",
    "WaveNetStack",
]
