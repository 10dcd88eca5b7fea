"""Quantizers between encoders and decoders: latents ``(B, C, *dims)`` to codes ``(B, K, *dims)`` and back."""

from audiovq.quantize.codebook import Codebook, EMACodebook, GradientCodebook
from audiovq.quantize.fsq import FiniteScalarQuantizer
from audiovq.quantize.functional import Quantized, QuantizerError
from audiovq.quantize.residual import ResidualVectorQuantizer
from audiovq.quantize.vector import ProductQuantizer, VectorQuantizer

__all__ = [
    "Codebook",
    "EMACodebook",
    "FiniteScalarQuantizer",
    "GradientCodebook",
    "ProductQuantizer",
    "Quantized",
    "QuantizerError",
    "ResidualVectorQuantizer",
    "VectorQuantizer",
]
