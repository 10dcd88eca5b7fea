"""The codec with the interface of the codecs in ``transformers``: code for Mimi or EnCodec runs with the class changed.

Argument and output names are those of ``MimiModel`` and ``EncodecModel``. A file of this codec says more than codes:
outputs have ``pitch``, ``level`` and ``speaker``, too, and ``audio_codes`` carries them along (`AudioCodes`), so that
``model.decode(outputs.audio_codes)`` has what it needs. ``transformers`` itself is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from audiovq.codec.codec import SpeechCodec
from audiovq.errors import AudioVQError
from audiovq.hub import model_facts, save_weights
from audiovq.interfaces import EncodedSpeech
from audiovq.io import atomic_write

_EXTRACTOR = "preprocessor_config.json"


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


class NamedOutput(dict[str, Any]):
    """What is set of some ``names``, by name, attribute or number, as ``ModelOutput`` has it; other names are None."""

    names: tuple[str, ...] = ()

    def __init__(self, **values: Any) -> None:
        super().__init__({name: values[name] for name in self.names if values.get(name) is not None})

    def __getattr__(self, name: str) -> Any:
        if name not in self and name not in self.names:
            raise AttributeError(name)
        return self.get(name)

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """What is set, in order."""
        return tuple(self.values())


class AudioVQEncoderOutput(NamedOutput):
    """Coded speech.

    Attributes:
        audio_codes: (B, K, F) int64, coarse to fine.
        pitch: (B, F) int64 pitch codes, 0 where unvoiced.
        level: (B, P) int64 level codes, one for each packet.
        speaker: (B, S) int64, the quantized speaker vector.
        n_samples: (B,) int64, samples of each item.
        audio_scales: for code made for EnCodec; the level is coded here.
    """

    names = ("audio_codes", "pitch", "level", "speaker", "n_samples")
    audio_scales: ClassVar[list[None]] = [None]


class AudioVQDecoderOutput(NamedOutput):
    """Decoded speech: ``audio_values`` (B, 1, T) float32."""

    names = ("audio_values",)


class AudioVQOutput(NamedOutput):
    """Coded and decoded speech; the fields are those of `AudioVQEncoderOutput` and `AudioVQDecoderOutput`."""

    names = ("audio_codes", "audio_values", "pitch", "level", "speaker", "n_samples")


class BatchFeature(dict[str, Any]):
    """What a feature extractor gives: a dictionary that is read by attribute, too, and moved with ``to``."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)

    def to(self, device: Any) -> BatchFeature:
        """The same with its tensors on a device."""
        return BatchFeature({k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.items()})


class AudioVQModel(nn.Module):
    """A speech codec as ``transformers`` has them.

    Args:
        codec: the model.

    Attributes:
        config: ``sampling_rate``, ``frame_rate``, ``hop_length``, ``num_quantizers``, ``codebook_size``,
            ``audio_channels``, ``target_bandwidths`` (kb/s by the number of codebooks) and ``return_dict``.
    """

    main_input_name = "input_values"

    def __init__(self, codec: SpeechCodec) -> None:
        super().__init__()
        self.codec = codec
        self.config = SimpleNamespace(
            model_type="audiovq",
            sampling_rate=codec.sample_rate,
            frame_rate=codec.frame_rate,
            hop_length=codec.hop_length,
            num_quantizers=codec.n_codebooks,
            codebook_size=codec.codebook_size,
            audio_channels=1,
            target_bandwidths=codec.bitrates,
            return_dict=True,
        )

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, device_map: str | torch.device | None = None
    ) -> AudioVQModel:
        """Load a folder with ``config.json`` and ``model.safetensors``, or a bundled model by name.

        Args:
            folder: the model; None: the bundled speech model.
            device_map: where it goes; ``auto``: to the GPU where there is one.

        Raises:
            AudioVQError: when there is no such model, or its files are damaged.
        """
        codec = SpeechCodec.from_pretrained(folder)
        if device_map == "auto":
            device_map = "cuda" if torch.cuda.is_available() else "cpu"
        model = cls(codec).eval()
        return model if device_map is None else model.to(device_map)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write ``config.json`` and ``model.safetensors``; weights are stored as ``dtype``, float16 by default."""
        save_weights(self.codec, folder, dtype)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.codec.device

    def get_encoded_length(self, input_length: Tensor) -> Tensor:
        """Frames that so many samples become."""
        return -(-input_length // self.codec.hop_length)

    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | float | None = None,
        bandwidth: float | None = None,
        return_dict: bool | None = None,
    ) -> AudioVQEncoderOutput | tuple[Any, ...]:
        """Code a batch.

        Args:
            input_values: (B, 1, T), (B, T) or (T,) float samples at ``config.sampling_rate``.
            padding_mask: (B, T) or (B, 1, T), 1 for samples and 0 for the padding behind them; None: no padding.
            num_quantizers: how many codebooks to use; None: all. A float is a bandwidth: EnCodec has it in this place.
            bandwidth: the same as a nominal rate in kb/s; one of ``config.target_bandwidths``, or up to it.
            return_dict: False: a tuple.

        Raises:
            AudioVQError: for another shape, padding in front of the samples, or what the model does not have.
        """
        items = _split(input_values, padding_mask)
        encoded = self.codec.encode(items, n_codebooks=self._n_codebooks(num_quantizers, bandwidth))
        device = input_values.device if isinstance(input_values, Tensor) else torch.device("cpu")
        side = {name: getattr(encoded, name).to(device) for name in AudioVQEncoderOutput.names[1:]}
        output = AudioVQEncoderOutput(audio_codes=AudioCodes.of(encoded).to(device), **side)
        return self._returned(output, return_dict)

    def decode(
        self,
        audio_codes: Tensor | AudioVQEncoderOutput | AudioVQOutput,
        padding_mask: Tensor | Sequence[Any] | None = None,
        audio_scales: Tensor | Sequence[Any] | None = None,
        return_dict: bool | None = None,
        pitch: Tensor | None = None,
        level: Tensor | None = None,
        speaker: Tensor | None = None,
        n_samples: Tensor | None = None,
    ) -> AudioVQDecoderOutput | tuple[Any, ...]:
        """Decode a batch -> (B, 1, T).

        Args:
            audio_codes: (B, K, F) as `encode` gave them, or its whole output; or codes of any origin, with what
                else is needed:
            padding_mask: its last dimension is the length of the result. Scales are taken here, too, as by EnCodec.
            audio_scales: for code made for EnCodec; ignored, since the level is coded.
            return_dict: False: a tuple.
            pitch, level, speaker, n_samples: see `AudioVQEncoderOutput`; they override what the codes carry. Another
                ``speaker`` converts the voice.

        Raises:
            AudioVQError: for codes without pitch, level and speaker.
        """
        if isinstance(padding_mask, list | tuple):  # EnCodec has the scales in the second place
            padding_mask, audio_scales = audio_scales, None  # type: ignore[assignment]
        codes = audio_codes if isinstance(audio_codes, Tensor) else audio_codes.audio_codes
        assert codes is not None
        carried = audio_codes.side if isinstance(audio_codes, AudioCodes) else audio_codes
        given = {"pitch": pitch, "level": level, "speaker": speaker, "n_samples": n_samples}
        given = {name: getattr(carried, name, None) if value is None else value for name, value in given.items()}
        if given["n_samples"] is None:
            given["n_samples"] = torch.full((len(codes),), codes.shape[-1] * self.codec.hop_length)
        values = self.codec.decode(_encoded(codes, given))
        if isinstance(padding_mask, Tensor):
            values = values[..., : padding_mask.shape[-1]]
        return self._returned(AudioVQDecoderOutput(audio_values=values.to(codes.device)), return_dict)

    def forward(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | float | None = None,
        audio_codes: Tensor | None = None,
        bandwidth: float | None = None,
        return_dict: bool | None = None,
    ) -> AudioVQOutput | tuple[Any, ...]:
        """Code and decode; with ``audio_codes`` decode these alone. Arguments as of `encode` and `decode`."""
        mask = torch.ones_like(torch.as_tensor(input_values)) if padding_mask is None else padding_mask
        coded: Any = None
        if audio_codes is None:
            coded = self.encode(input_values, padding_mask, num_quantizers, bandwidth, return_dict=True)
        values = self.decode(audio_codes if coded is None else coded, mask, return_dict=False)[0]  # type: ignore[arg-type]
        output = AudioVQOutput(**(coded or {"audio_codes": audio_codes}), audio_values=values)
        return self._returned(output, return_dict)

    def _n_codebooks(self, num_quantizers: int | float | None, bandwidth: float | None) -> int:
        if isinstance(num_quantizers, float):
            num_quantizers, bandwidth = None, num_quantizers
        if num_quantizers is not None or bandwidth is None:
            return self.codec.check_n_codebooks(num_quantizers or self.codec.n_codebooks)
        fitting = [n for n, rate in enumerate(self.codec.bitrates, 1) if rate <= bandwidth + 0.05]
        if not fitting:
            raise AudioVQError(f"model {self.codec.name} needs {self.codec.bitrates[0]:g} kb/s, not {bandwidth:g}")
        return fitting[-1]

    def _returned(self, output: Any, return_dict: bool | None) -> Any:
        wanted = self.config.return_dict if return_dict is None else return_dict
        return output if wanted else output.to_tuple()


def _split(input_values: Tensor | np.ndarray, padding_mask: Tensor | None) -> list[Tensor]:
    """A batch with padding -> its items (T_i,)."""
    values = torch.as_tensor(input_values)
    if values.dim() == 3 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dim() == 1:
        values = values[None]
    if values.dim() != 2:
        raise AudioVQError(f"input_values are (B, 1, T) or (B, T), not {tuple(values.shape)}")
    if padding_mask is None:
        return list(values)
    mask = torch.as_tensor(padding_mask).reshape(len(values), -1).bool()
    lengths = mask.sum(1).tolist()
    if mask.shape != values.shape or any(not row[:n].all() for row, n in zip(mask, lengths, strict=True)):
        raise AudioVQError("padding_mask has a 1 for each sample, and zeros only behind them")
    return [row[:n] for row, n in zip(values, lengths, strict=True)]


def _encoded(codes: Tensor, side: dict[str, Tensor | None]) -> EncodedSpeech:
    """A batch on the CPU from codes and what else is needed to decode them."""
    missing = [name for name, value in side.items() if value is None]
    if missing:
        raise AudioVQError(
            f"these codes come without {', '.join(missing)}: pass the output of encode, or these fields by name"
        )
    plain = {name: value.cpu() for name, value in side.items() if value is not None}
    return EncodedSpeech(codes.as_subclass(Tensor).cpu(), **plain)  # type: ignore[arg-type]


class AudioVQFeatureExtractor:
    """Recordings to the padded batch that `AudioVQModel` takes; stands where code has ``AutoFeatureExtractor``.

    Args:
        sampling_rate: of the model, Hz.
    """

    model_input_names = ("input_values", "padding_mask")

    def __init__(self, sampling_rate: int = 16000) -> None:
        self.sampling_rate, self.feature_size, self.padding_value = sampling_rate, 1, 0.0

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None) -> AudioVQFeatureExtractor:
        """The extractor for a model, see `AudioVQModel.from_pretrained`.

        Raises:
            AudioVQError: when there is no such model.
        """
        return cls(model_facts(folder).sample_rate)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``preprocessor_config.json``."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        names = ("feature_size", "padding_value", "sampling_rate")
        content = {"feature_extractor_type": type(self).__name__} | {name: getattr(self, name) for name in names}
        with atomic_write(Path(folder) / _EXTRACTOR) as path:
            path.write_text(json.dumps(content, indent=2) + "\n")

    def __call__(
        self,
        raw_audio: Any,
        padding: bool | str | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
    ) -> BatchFeature:
        """Make a batch.

        Args:
            raw_audio: a recording (T,), or a list of them.
            padding: ``max_length`` pads to that; anything else to the longest.
            truncation: cut to ``max_length``.
            max_length: samples.
            return_tensors: ``pt`` for tensors, ``np`` or None for arrays.
            sampling_rate: of the recordings; it has to be the model's.

        Raises:
            AudioVQError: for another sampling rate, or recordings of another shape.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise AudioVQError(f"the model takes {self.sampling_rate} Hz, not {sampling_rate}: resample the recordings")
        many = isinstance(raw_audio, list | tuple) and len(raw_audio) > 0 and np.ndim(raw_audio[0]) > 0
        items = [np.asarray(item, np.float32) for item in (raw_audio if many else [raw_audio])]
        if any(item.ndim != 1 or not len(item) for item in items):
            raise AudioVQError("recordings are (T,) with at least one sample, of one channel")
        if truncation and max_length is not None:
            items = [item[:max_length] for item in items]
        longest = max(map(len, items))
        if padding == "max_length" and max_length is not None:
            longest = max(longest, max_length)
        values, mask = np.zeros((len(items), 1, longest), np.float32), np.zeros((len(items), longest), np.int32)
        for i, item in enumerate(items):
            values[i, 0, : len(item)], mask[i, : len(item)] = item, 1
        arrays = {"input_values": values, "padding_mask": mask}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return BatchFeature(tensors if return_tensors == "pt" else arrays)
