"""audiovq: vector-quantized autoencoders for speech.

Importing the package imports nothing heavy: the classes below are looked up on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from audiovq.errors import lazy

__version__ = "0.2.0"

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec
    from audiovq.codec.onnx_codec import OnnxCodec
    from audiovq.codec.transformers_api import AudioVQFeatureExtractor, AudioVQModel
    from audiovq.image.codec import EncodedImage, ImageCodec
    from audiovq.interfaces import EncodedSpeech
    from audiovq.prior.speech import SpeechPrior

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


_find = lazy(
    __name__,
    **{
        "interfaces": "EncodedSpeech",
        "codec.codec": "SpeechCodec",
        "codec.onnx_codec": "OnnxCodec",
        "codec.transformers_api": "AudioVQFeatureExtractor AudioVQModel",
        "image.codec": "EncodedImage ImageCodec",
        "prior.speech": "SpeechPrior",
    },
)


def __getattr__(name: str) -> Any:
    try:
        return _find(name)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "numba", "llvmlite"):
            raise
        without = {"SpeechCodec": "audiovq.OnnxCodec", "SpeechPrior": "audiovq.prior.SpeechSampler"}
        hint = f"; {without[name]} does not" if name in without else ""
        raise ImportError(f"audiovq.{name} needs PyTorch: pip install 'audiovq[torch]'{hint}") from error
