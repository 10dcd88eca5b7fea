"""Writing a speech codec for ONNX Runtime: its networks as .onnx files, its codebooks, and a description of both."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.codec.onnx_codec import CODEBOOKS, DESCRIPTION, VERSION
from audiovq.codec.torch_engine import codebooks_of, shape_of
from audiovq.errors import AudioVQError, need
from audiovq.hub import ONNX
from audiovq.io import file_sha256

if TYPE_CHECKING:
    from audiovq.codec.codec import CodecNetworks
    from audiovq.codec.coding import Codebooks
    from audiovq.codec.decoder import SourceFilterDecoder
    from audiovq.codec.encoder import PitchTracker, SpeakerEncoder

OPSET = 17
#: Files of the model's folder that are copied: its configuration, bundled speakers and entropy model.
COPIED = ("config.json", "speakers.json", "entropy.safetensors")


class _Speaker(nn.Module):
    """The speaker encoder up to the vector before rounding."""

    def __init__(self, encoder: SpeakerEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, waveform: Tensor) -> Tensor:
        return self.encoder.levels_of(waveform)


class _Pitch(nn.Module):
    """The pitch tracker, its Fourier transforms as matrix products: not all runtimes have them."""

    def __init__(self, tracker: PitchTracker) -> None:
        super().__init__()
        self.tracker = tracker
        half, n_fft = tracker.n_fft // 2, tracker.n_fft
        # About the middle of the window the even part meets cosines alone, the odd part sines alone.
        angle = torch.arange(n_fft + 1, dtype=torch.float64) * math.pi / n_fft
        place = torch.arange(half, dtype=torch.float64)[:, None] + 0.5
        self.register_buffer("cosine", torch.cos(place * angle).float())
        self.register_buffer("sine", torch.sin(place * angle).float())
        # An autocorrelation at some lags is linear in the power spectrum.
        weight = torch.full((n_fft + 1, 1), 1 / n_fft, dtype=torch.float64)
        weight[0] = weight[-1] = 0.5 / n_fft
        curves = weight * torch.cos(angle[:, None] * torch.arange(half + 1, dtype=torch.float64))
        self.register_buffer("energy", curves[:, :1].float())
        lag, fraction = tracker.lag, tracker.fraction.double()
        for name, overlap in (("flat", torch.ones(half)), ("windowed", tracker.overlap.double())):
            low, high = curves[:, lag] / overlap[lag], curves[:, lag + 1] / overlap[lag + 1]
            self.register_buffer(name, (low + (high - low) * fraction).float())

    cosine: Tensor
    sine: Tensor
    energy: Tensor
    flat: Tensor
    windowed: Tensor

    def forward(self, waveform: Tensor) -> Tensor:
        """As `PitchTracker.forward`, for (B, 1, T) -> (B, F, N_VALUES + 1)."""
        tracker, half = self.tracker, self.tracker.n_fft // 2
        windows = self._windows(waveform) * tracker.window
        before, behind = windows[..., :half].flip(-1), windows[..., half:]
        power = ((behind + before) @ self.cosine).square() + ((behind - before) @ self.sine).square()
        level = 0.25 * torch.log(power[..., : 2 * tracker.bins : 2] + 1e-5) + 0.5
        lags = []
        for exponent, matrix in ((1.0, self.windowed), (0.35, self.flat)):
            spectrum = (power + 1e-8) ** exponent
            lags.append((spectrum @ matrix) / (spectrum @ self.energy))
        x = tracker.entry(torch.cat([level, *lags], dim=-1).transpose(1, 2))
        for unit in tracker.units:
            x = unit(x)
        return tracker.classify(tracker.norm(x)).transpose(1, 2)

    def _windows(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> (B, F, n_fft), from blocks of a hop beside each other."""
        hop, n_fft = self.tracker.hop_length, self.tracker.n_fft
        n_blocks, pad = -(-n_fft // hop), (n_fft - hop) // 2
        blocks = F.pad(waveform[:, 0], (pad, pad + n_blocks * hop - n_fft)).unflatten(1, (-1, hop))
        ends = [i - n_blocks + 1 or None for i in range(n_blocks)]
        return torch.cat([blocks[:, i:end] for i, end in enumerate(ends)], dim=2)[..., :n_fft]


class _Decoder(nn.Module):
    """The decoder up to the gains of its short frames."""

    def __init__(self, decoder: SourceFilterDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latents: Tensor, pitch: Tensor, speaker: Tensor, direct: Tensor) -> tuple[Tensor, Tensor]:
        features = self.decoder.features(latents, pitch, speaker, direct)
        return self.decoder.gains(features).transpose(1, 2), self.decoder.direct(features).transpose(1, 2)


def export_onnx(codec: CodecNetworks, folder: Path, source: Path | None = None) -> None:
    """Write a codec for `audiovq.codec.onnx_codec.OnnxCodec`. Either all of it is there afterwards or nothing.

    Args:
        codec: in evaluation mode, on the CPU.
        folder: to write; an earlier export, or an empty folder, in its place is replaced.
        source: the model's folder, whose weights' hash is noted, and of which `COPIED` are copied (but not into
            ``source/onnx``).

    Raises:
        AudioVQError: for a folder with anything else in it, or one that cannot be written, and without the package
            ``onnx``.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / DESCRIPTION).is_file())):
        raise AudioVQError(f"{folder}: holds something else than an earlier export; name another folder")
    need("onnx", "an export for ONNX Runtime", "onnx")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            staged = Path(temporary) / "new"
            staged.mkdir()
            _write(codec, staged, source, folder.resolve() == (source / ONNX).resolve() if source else False)
            if folder.exists():
                folder.rename(Path(temporary) / "old")
            staged.rename(folder)
    except OSError as error:
        raise AudioVQError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _write(codec: CodecNetworks, folder: Path, source: Path | None, beside: bool) -> None:
    """Write all files; what the model's folder has is not copied when the export lies ``beside`` it."""
    networks = {name: _write_network(folder / f"{name}.onnx", *what) for name, what in _networks(codec).items()}
    codebooks = _write_codebooks(codebooks_of(codec.quantizer), folder / CODEBOOKS)
    digest = None
    if source is not None:
        digest = file_sha256(source / "model.safetensors")
        for name in COPIED:
            if (source / name).is_file() and not beside:
                shutil.copyfile(source / name, folder / name)
    config: Any = codec.config
    description = {
        "version": VERSION,
        "name": codec.name,
        "model_hash": getattr(codec, "model_hash", bytes(4)).hex(),
        "weights_sha256": digest,
        **{name: config[name] for name in ("packet_frames", "default_n_codebooks", "conversion_codebooks")},
        "shape": asdict(shape_of(codec)),
        "codebooks": codebooks,
        "networks": networks,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def _networks(codec: CodecNetworks) -> dict[str, tuple[nn.Module, dict[str, Tensor], dict[str, list[Any]]]]:
    """By name: the network, examples of its inputs, and the dimensions of inputs and outputs; names are variable."""
    hop, size, channels = codec.hop_length, codec.speaker_encoder.dim, codec.encoder.latent_dim
    n_frames = 8
    waveform, speaker = torch.randn(1, 1, n_frames * hop) * 0.1, torch.zeros(1, size)
    latents, pitch = torch.randn(1, channels, n_frames), torch.tensor([[0, 0, 60, 61, 62, 60, 0, 0]])
    signal, vector = ["batch", 1, "samples"], ["batch", size]
    bins = codec.decoder.bins
    return {
        "encoder": (
            codec.encoder,
            {"waveform": waveform, "speaker": speaker, "source": waveform.flip(-1)},
            {"waveform": signal, "speaker": vector, "source": signal, "latents": ["batch", channels, "frames"]},
        ),
        "pitch": (
            _Pitch(codec.pitch),
            {"waveform": waveform},
            {"waveform": signal, "logits": ["batch", "frames", codec.pitch.classify.out_channels]},
        ),
        "speaker": (
            _Speaker(codec.speaker_encoder),
            {"waveform": waveform},
            {"waveform": signal, "levels": vector},
        ),
        "decoder": (
            _Decoder(codec.decoder),
            {"latents": latents, "pitch": pitch, "speaker": speaker, "direct": torch.tensor([True])},
            {
                "latents": ["batch", channels, "frames"],
                "pitch": ["batch", "frames"],
                "speaker": vector,
                "direct": ["batch"],
                "gains": ["batch", "short_frames", 4 * bins],
                "direct_gains": ["batch", "short_frames", 3 * bins],
            },
        ),
    }


def _write_network(
    path: Path, network: nn.Module, inputs: dict[str, Tensor], dimensions: dict[str, list[Any]]
) -> dict[str, Any]:
    """Write one network; its entry in the description."""
    outputs = [name for name in dimensions if name not in inputs]
    variable = {name: {i: d for i, d in enumerate(ds) if isinstance(d, str)} for name, ds in dimensions.items()}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # checks of lengths are not part of the graph
        torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=variable,
        )
    kinds = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in inputs.items()}
    return {
        "file": path.name,
        "inputs": {name: {"dimensions": dimensions[name], "type": kinds[name]} for name in inputs},
        "outputs": {name: {"dimensions": dimensions[name], "type": "float32"} for name in outputs},
    }


def _write_codebooks(codebooks: Codebooks, path: Path) -> dict[str, Any]:
    """Write the quantizer's tables; their entry in the description."""
    from safetensors.numpy import save

    tables = [codebooks.content, *codebooks.detail]
    tensors = {"predict": codebooks.predict}
    for i, table in enumerate(tables):
        parts = {name: getattr(table, name) for name in ("search", "values", "costs", "weight", "bias")}
        if np.array_equal(parts["search"], parts["values"]):
            parts["values"] = None
        tensors.update({f"{i}.{name}": np.ascontiguousarray(part) for name, part in parts.items() if part is not None})
    path.write_bytes(save(tensors))
    return {"file": path.name, "normalised": [table.normalised for table in tables]}
