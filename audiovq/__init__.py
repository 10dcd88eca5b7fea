"""audiovq: vector-quantized autoencoders for speech.

Importing the package imports nothing heavy: the classes below are looked up on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec
    from audiovq.codec.onnx_codec import OnnxCodec
    from audiovq.codec.transformers_api import AudioVQFeatureExtractor, AudioVQModel
    from audiovq.image.codec import EncodedImage, ImageCodec
    from audiovq.interfaces import EncodedSpeech
    from audiovq.prior.speech import SpeechPrior

_LAZY = {
    "AudioVQFeatureExtractor": "audiovq.codec.transformers_api",
    "AudioVQModel": "audiovq.codec.transformers_api",
    "EncodedImage": "audiovq.image.codec",
    "ImageCodec": "audiovq.image.codec",
    "OnnxCodec": "audiovq.codec.onnx_codec",
    "SpeechCodec": "audiovq.codec.codec",
    "EncodedSpeech": "audiovq.interfaces",
    "SpeechPrior": "audiovq.prior.speech",
}

__all__ = [
    "AudioVQFeatureExtractor",
    "AudioVQModel",
    "EncodedImage",
    "EncodedSpeech",
    "ImageCodec",
    "OnnxCodec",
    "SpeechCodec",
    "SpeechPrior",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        try:
            return getattr(import_module(_LAZY[name]), name)
        except ModuleNotFoundError as error:
            if error.name not in ("torch", "numba", "llvmlite"):
                raise
            without = {"SpeechCodec": "audiovq.OnnxCodec", "SpeechPrior": "audiovq.prior.SpeechSampler"}
            hint = f"; {without[name]} does not" if name in without else ""
            raise ImportError(f"audiovq.{name} needs PyTorch: pip install 'audiovq[torch]'{hint}") from error
    raise AttributeError(f"module 'audiovq' has no attribute {name!r}")
