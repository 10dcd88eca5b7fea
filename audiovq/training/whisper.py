"""Whisper's encoder in torch, and its features along a packed corpus: the content codebook's teacher.

The encoder is read from the CTranslate2 file that the packages carry (Radford et al. 2022, "Robust speech recognition
via large-scale weak supervision", section 2.2), and is differentiable.

Codes that learn from such features keep more of the words and less of the voice (Zhang et al. 2024, SpeechTokenizer,
section 3.2, with HuBERT as teacher).

Much of the variance of Whisper's states is where in its window something is said, which no code can know. A part of
the corpus is therefore put through the encoder at several places of its window, and the directions are kept that come
out the same (see `invariant_directions`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.data.packed import PackedCorpus
from audiovq.data.whisper import ENCODER_FILE
from audiovq.errors import AudioVQError
from audiovq.interfaces import Progress
from audiovq.io import atomic_write

_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
HOP = 320
"""Samples at 16 kHz from one feature to the next."""


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
        n_layers: layers that are computed; all by default.
    """

    def __init__(self, tensors: dict[str, np.ndarray] | dict[str, Tensor], n_layers: int | None = None) -> None:
        super().__init__()
        import librosa

        for name, value in tensors.items():
            if name.startswith("encoder/") and not name.endswith("num_heads"):
                tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value, np.float32))
                self.register_buffer(_plain(name), tensor.float(), persistent=False)
        numbered = [name for name in tensors if name.startswith("encoder/layer_") and name[14].isdigit()]
        layers = [int(name[14:].split("/")[0]) for name in numbered]
        self.n_layers = n_layers or max(layers) + 1
        mel = librosa.filters.mel(sr=16000, n_fft=400, n_mels=80)
        self.register_buffer("mel", torch.from_numpy(mel).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(400), persistent=False)

    mel: Tensor
    window: Tensor

    @classmethod
    def load(cls, folder: Path, n_layers: int | None = None) -> WhisperEncoder:
        """From a folder with an `ENCODER_FILE`, or else with CTranslate2's ``model.bin``."""
        if (folder / ENCODER_FILE).is_file():
            from safetensors.torch import load_file

            return cls(load_file(folder / ENCODER_FILE), n_layers)
        return cls(read_ctranslate2(folder / "model.bin", "encoder/"), n_layers)

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
    from safetensors.torch import save

    kept = {}
    for name, value in read_ctranslate2(folder / "model.bin", "encoder/").items():
        layer = int(name[14:].split("/")[0]) if name.startswith("encoder/layer_") and name[14].isdigit() else -1
        if (n_layers is None or layer < n_layers) and not name.endswith("num_heads"):
            kept[name] = torch.from_numpy(np.array(value, np.float32)).half()
    return save(kept)


def _plain(name: str) -> str:
    """A buffer's name for a variable's."""
    return name.replace("/", "__")


Encoder = Callable[[Tensor], list[Tensor]]
"""Waveforms (B, T) -> states (B, T / 320, C) after each layer, of which the last are used: `WhisperEncoder` is one."""
DIM = 64
"""Directions that are kept."""
WINDOW = 1500
"""Frames of a window, 30 s."""
MARGIN = 100
"""Frames at either end of a window whose features lack context and are not taken."""
SHIFTS = (0, 350, 700)
"""Frames by which windows are shifted to see the same speech at other places."""
_RIDGE = 1e-3  # of the mean variance, added to every direction's own


@torch.no_grad()
def states(corpus: PackedCorpus, encoder: Encoder, first_frame: np.ndarray) -> Tensor:
    """Last states (B, WINDOW, C) of the windows that begin at these frames."""
    return encoder(corpus.crops(first_frame, WINDOW))[-1]


def invariant_directions(hearings: list[np.ndarray], dim: int = DIM) -> tuple[np.ndarray, np.ndarray]:
    """The mean (C,) of features, and the directions (C, dim) that depend least on their place in the window.

    They have the largest shares of their variance in common between hearings (a generalized eigenvalue problem, as of
    linear discriminant analysis with each frame as a class), surest first, and a variance of about one.

    Args:
        hearings: features (N, C) of the same N frames at different places of the window, two or more.
        dim: directions to keep.
    """
    from scipy.linalg import eigh

    mean = np.mean([rows.mean(axis=0, dtype=np.float64) for rows in hearings], axis=0)
    centred = [rows.astype(np.float64) - mean for rows in hearings]
    n = sum(map(len, centred))
    whole = sum(rows.T @ rows for rows in centred) / n
    total = np.sum(centred, axis=0)
    # Products of each hearing with each other one are those of the sum, less those with itself.
    common = (total.T @ total - n * whole) / (n * (len(centred) - 1))
    firm = whole + _RIDGE * np.trace(whole) / len(whole) * np.eye(len(whole))
    _, vectors = eigh(common, firm)
    return mean, vectors[:, -dim:][:, ::-1].copy()


def fit_directions(
    corpus: PackedCorpus, encoder: Encoder, n_windows: int = 40, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """`invariant_directions` of a random part of a corpus.

    Raises:
        AudioVQError: for a corpus shorter than a window and its shifts.
    """
    last = len(corpus.samples) // 320 - WINDOW - max(SHIFTS)
    if last < 1:
        raise AudioVQError("the corpus is too short to fit a teacher's features to: it needs a minute at least")
    starts = np.random.default_rng(seed).integers(0, last, n_windows)
    hearings: list[list[np.ndarray]] = [[] for _ in SHIFTS]
    common = slice(max(SHIFTS) + MARGIN, WINDOW - MARGIN)  # frames of the first window that all windows have
    for start in starts:
        for rows, shift in zip(hearings, SHIFTS, strict=True):
            features = states(corpus, encoder, np.array([start + shift]))[0]
            rows.append(features[common.start - shift : common.stop - shift].float().cpu().numpy())
    return invariant_directions([np.concatenate(rows) for rows in hearings])


def teacher_rows(
    corpus: PackedCorpus,
    encoder: Encoder,
    mean: np.ndarray,
    directions: np.ndarray,
    batch_size: int = 1,
    progress: Progress | None = None,
) -> Tensor:
    """Features of every frame of a corpus, (frames, DIM) float16 on the corpus's device."""
    device = corpus.samples.device
    total = len(corpus.samples) // 320
    centre = torch.from_numpy(mean).float().to(device)
    basis = torch.from_numpy(directions).float().to(device)
    rows = torch.zeros(total, directions.shape[1], dtype=torch.float16, device=device)
    step = WINDOW - 2 * MARGIN
    starts = np.minimum(np.arange(0, max(total - 2 * MARGIN, 1), step), max(total - WINDOW, 0))
    for i in range(0, len(starts), batch_size):
        some = starts[i : i + batch_size]
        for start, features in zip(some, states(corpus, encoder, some), strict=True):
            low = 0 if start == 0 else MARGIN
            high = WINDOW if start + WINDOW >= total else WINDOW - MARGIN
            rows[start + low : start + high] = ((features[low:high].float() - centre) @ basis).half()
        if progress is not None:
            progress(float(min(i + batch_size, len(starts))), float(len(starts)))
    return rows


def save_rows(folder: Path, rows: Tensor) -> None:
    """Put features beside a packed corpus, where `PackedCorpus.open` finds them."""
    with atomic_write(folder / "teacher.bin") as path:
        path.write_bytes(rows.cpu().numpy().tobytes())
