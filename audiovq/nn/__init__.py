"""Network blocks that two or more pipelines use."""

from audiovq.nn.convolutions import ChannelNorm, DilatedResidualUnit, GatedLayer
from audiovq.nn.distributions import LogisticMixture, MuLawCategorical
from audiovq.nn.sequence import Transformer, WaveNetStack

__all__ = [
    "ChannelNorm",
    "DilatedResidualUnit",
    "GatedLayer",
    "LogisticMixture",
    "MuLawCategorical",
    "Transformer",
    "WaveNetStack",
]
