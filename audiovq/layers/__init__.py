"""Blocks that two or more pipelines use."""

from audiovq.layers.residual import ChannelNorm, DilatedResidualUnit

__all__ = ["ChannelNorm", "DilatedResidualUnit"]
