"""Results with the names that the codecs in ``transformers`` give them, see `audiovq.codec.transformers_api`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from audiovq.interfaces import EncodedSpeech


class AudioCodes(Tensor):
    """Codes (B, K, F) int64 that carry what else an item needs to be decoded.

    Moving or copying it keeps that; anything that changes or selects values gives an ordinary tensor.

    Attributes:
        side: the `EncodedSpeech` that the codes are of.
    """

    side: EncodedSpeech | None = None
    _KEEPS = ("to", "cpu", "cuda", "clone", "detach", "contiguous", "long", "pin_memory")

    @classmethod
    def of(cls, encoded: EncodedSpeech) -> AudioCodes:
        """The codes of a batch, with the batch."""
        codes = encoded.codes.as_subclass(cls)
        codes.side = encoded
        return codes

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in cls._KEEPS and args and isinstance(args[0], cls):
            result = result.as_subclass(cls)
            result.side = args[0].side
        return result

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Tensor.__reduce_ex__(self.as_subclass(Tensor), protocol)


class NamedOutput:
    """A dataclass whose fields that are not None can also be had by name or number, as ``ModelOutput`` has it."""

    def keys(self) -> list[str]:
        """Names of the fields that are set."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]  # type: ignore[arg-type]

    def values(self) -> list[Any]:
        """What is set."""
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        """Names and values."""
        return list(zip(self.keys(), self.values(), strict=True))

    def to_tuple(self) -> tuple[Any, ...]:
        """What is set, in order."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            if key not in self.keys():
                raise KeyError(key)
            return getattr(self, key)
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()


@dataclass
class AudioVQEncoderOutput(NamedOutput):
    """Coded speech.

    Attributes:
        audio_codes: (B, K, F) int64, coarse to fine.
        pitch: (B, F) int64 pitch codes, 0 where unvoiced.
        level: (B, P) int64 level codes, one for each packet.
        speaker: (B, S) int64, the quantized speaker vector.
        n_samples: (B,) int64, samples of each item.
    """

    audio_codes: Tensor | None = None
    pitch: Tensor | None = None
    level: Tensor | None = None
    speaker: Tensor | None = None
    n_samples: Tensor | None = None

    @property
    def audio_scales(self) -> list[None]:
        """For code made for EnCodec; the level is coded here."""
        return [None]


@dataclass
class AudioVQDecoderOutput(NamedOutput):
    """Decoded speech.

    Attributes:
        audio_values: (B, 1, T) float32.
    """

    audio_values: Tensor | None = None


@dataclass
class AudioVQOutput(NamedOutput):
    """Coded and decoded speech; the fields are those of `AudioVQEncoderOutput` and `AudioVQDecoderOutput`."""

    audio_codes: Tensor | None = None
    audio_values: Tensor | None = None
    pitch: Tensor | None = None
    level: Tensor | None = None
    speaker: Tensor | None = None
    n_samples: Tensor | None = None


class BatchFeature(dict[str, Any]):
    """What a feature extractor gives: a dictionary that is read by attribute, too, and moved with ``to``."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)

    def to(self, device: Any) -> BatchFeature:
        """The same with its tensors on a device."""
        return BatchFeature({k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.items()})
