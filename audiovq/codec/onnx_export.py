"""Writing a speech codec for ONNX Runtime: its networks as .onnx files, its codebooks, and a description of both."""

from __future__ import annotations

import math
import shutil
import tempfile
import warnings
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from audiovq.codec.onnx_codec import CODEBOOKS, CONFIG, DESCRIPTION, VERSION, WEIGHTS
from audiovq.codec.torch_engine import codebooks_of, shape_of
from audiovq.devices import SCALE, restore
from audiovq.errors import AudioVQError, need
from audiovq.hub import stored_tensors
from audiovq.io import file_sha256
from audiovq.tensor_files import write_json, write_weights

if TYPE_CHECKING:
    from audiovq.codec.codec import CodecNetworks
    from audiovq.codec.coding import Codebooks
    from audiovq.codec.decoder import SourceFilterDecoder
    from audiovq.codec.encoder import PitchTracker, SpeakerEncoder

OPSET = 17
#: Files of the model's folder that are copied: the last three are its bundled speakers, entropy model and concealment.
COPIED = (CONFIG, WEIGHTS, "speakers.json", "entropy.safetensors", "concealment.safetensors")
SMALLEST = 1024
"""Bytes of the smallest tensor that a graph takes from the weights' file instead of holding it."""


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
        # About the middle of the window the even part meets cosines alone, the odd part sines alone. In units of half a
        # step, angles are integers: so the graph computes the matrices when it is loaded, and need not hold them.
        self.register_buffer("bin", torch.arange(n_fft + 1))
        self.register_buffer("place", 2 * torch.arange(half)[:, None] + 1)
        # An autocorrelation at some lags is linear in the power spectrum.
        weight = torch.full((n_fft + 1, 1), 1 / n_fft, dtype=torch.float64)
        weight[0] = weight[-1] = 0.5 / n_fft
        self.register_buffer("energy", weight.float())
        lag, fraction = tracker.lag, tracker.fraction.double()
        self.register_buffer("lag", 2 * lag)
        for name, overlap in (("flat", torch.ones(half)), ("windowed", tracker.overlap.double())):
            self.register_buffer(f"{name}_low", ((1 - fraction) / overlap[lag]).float())
            self.register_buffer(f"{name}_high", (fraction / overlap[lag + 1]).float())

    bin: Tensor
    place: Tensor
    energy: Tensor
    lag: Tensor
    flat_low: Tensor
    flat_high: Tensor
    windowed_low: Tensor
    windowed_high: Tensor

    def _angle(self, product: Tensor) -> Tensor:
        period = 4 * self.tracker.n_fft
        return (product % period).float() * (2 * math.pi / period)

    def forward(self, waveform: Tensor) -> Tensor:
        """As `PitchTracker.forward`, for (B, 1, T) -> (B, F, N_VALUES + 1)."""
        tracker, half = self.tracker, self.tracker.n_fft // 2
        windows = self._windows(waveform) * tracker.window
        before, behind = windows[..., :half].flip(-1), windows[..., half:]
        angle = self._angle(self.place * self.bin)
        power = ((behind + before) @ torch.cos(angle)).square() + ((behind - before) @ torch.sin(angle)).square()
        level = 0.25 * torch.log(power[..., : 2 * tracker.bins : 2] + 1e-5) + 0.5
        low, high = (self.energy * torch.cos(self._angle(self.bin[:, None] * lag)) for lag in (self.lag, self.lag + 2))
        windowed = low * self.windowed_low + high * self.windowed_high
        flat = low * self.flat_low + high * self.flat_high
        lags = []
        for exponent, matrix in ((1.0, windowed), (0.35, flat)):
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

    The graphs take their weights from ``model.safetensors`` beside them: a folder serves both engines, and is little
    larger than the weights.

    Args:
        codec: in evaluation mode, on the CPU.
        folder: to write; an earlier export or an empty folder is replaced. The model's own gets the graphs added.
        source: the model's folder, of which `COPIED` are copied; None: the codec's weights are written in float32.

    Raises:
        AudioVQError: for a folder with anything else in it, or one that cannot be written, and without the package
            ``onnx``.
    """
    beside = source is not None and folder.resolve() == source.resolve()
    free = not folder.exists() or (folder.is_dir() and (not any(folder.iterdir()) or (folder / DESCRIPTION).is_file()))
    if not beside and not free:
        raise AudioVQError(f"{folder}: holds something else than an earlier export; name another folder")
    need("onnx", "an export for ONNX Runtime", "onnx")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            staged = Path(temporary) / "new"
            staged.mkdir()
            if source is None:
                write_weights(codec.state_dict(), codec.config, staged, torch.float32)
            else:
                for name in COPIED:
                    if (source / name).is_file():
                        shutil.copyfile(source / name, staged / name)
            _write(codec, staged)
            if beside:
                (folder / DESCRIPTION).unlink(missing_ok=True)
                for path in sorted(staged.iterdir(), key=lambda path: path.name == DESCRIPTION):  # that one last
                    if path.name not in COPIED:
                        path.rename(folder / path.name)
                return
            if folder.exists():
                folder.rename(Path(temporary) / "old")
            staged.rename(folder)
    except OSError as error:
        raise AudioVQError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _write(codec: CodecNetworks, folder: Path) -> None:
    """Write graphs, tables and their description beside the weights."""
    weights = SharedWeights(folder / WEIGHTS)
    networks = {
        name: _write_network(folder / f"{name}.onnx", weights, *what) for name, what in _networks(codec).items()
    }
    codebooks = _write_codebooks(codebooks_of(codec.quantizer), folder / CODEBOOKS, weights)
    files = [CONFIG, WEIGHTS, codebooks["file"], *(network["file"] for network in networks.values())]
    config: Any = codec.config
    description = {
        "version": VERSION,
        "name": codec.name,
        "files": {name: file_sha256(folder / name) for name in files if name},
        **{name: config[name] for name in ("packet_frames", "default_n_codebooks", "conversion_codebooks")},
        "shape": asdict(shape_of(codec)),
        "codebooks": codebooks,
        "networks": networks,
    }
    write_json(folder / DESCRIPTION, description)


class SharedWeights:
    """Finds tensors among those of a model's weights, by their values.

    Args:
        path: of ``model.safetensors``.
    """

    def __init__(self, path: Path) -> None:
        self._entries, self._first = stored_tensors(path)
        tensors = restore(load(path.read_bytes()))
        self._names = {_key(tensor.numpy()): name for name, tensor in tensors.items()}

    def name(self, array: np.ndarray) -> str | None:
        """Name of the tensor that, restored to float32, is this array; None where there is none."""
        return self._names.get(_key(array)) if array.dtype == np.float32 else None

    def is_scaled(self, name: str) -> bool:
        """Whether a tensor is stored in 8 bits, with scales."""
        return name + SCALE in self._entries

    def share(self, model: Any) -> None:
        """Let the initializers of an ONNX model refer to the file.

        What is stored in 8 or 16 bits is restored by nodes at the graph's beginning, which the runtime folds when it
        loads the model.
        """
        from onnx import helper, numpy_helper

        graph, nodes = model.graph, []
        for tensor in list(graph.initializer):
            name = self.name(numpy_helper.to_array(tensor)) if len(tensor.raw_data) >= SMALLEST else None
            if name is None:
                continue
            graph.initializer.remove(tensor)
            stored, scale = tensor.name + ".stored", tensor.name + ".scale"
            if self._entries[name]["dtype"] == "F32":
                graph.initializer.append(self._external(tensor.name, name, tensor.dims))
                continue
            graph.initializer.append(self._external(stored, name, tensor.dims))
            if not self.is_scaled(name):
                nodes.append(helper.make_node("Cast", [stored], [tensor.name], to=1))
                continue
            dims = [tensor.dims[0], *[1] * (len(tensor.dims) - 1)]
            graph.initializer.append(self._external(scale, name + SCALE, dims))
            nodes.append(helper.make_node("Cast", [stored], [stored + ".float"], to=1))
            nodes.append(helper.make_node("Cast", [scale], [scale + ".float"], to=1))
            nodes.append(helper.make_node("Mul", [stored + ".float", scale + ".float"], [tensor.name]))
        for i, node in enumerate(nodes):
            graph.node.insert(i, node)

    def _external(self, name: str, source: str, dims: Any) -> Any:
        from onnx import TensorProto

        entry = self._entries[source]
        begin, end = entry["data_offsets"]
        kinds = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "I8": TensorProto.INT8}
        tensor = TensorProto(name=name, dims=dims, data_type=kinds[entry["dtype"]], data_location=TensorProto.EXTERNAL)
        place = {"location": WEIGHTS, "offset": self._first + begin, "length": end - begin}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def _key(array: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return array.shape, sha256(np.ascontiguousarray(array).tobytes()).digest()


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
            {"latents": latents, "pitch": pitch, "speaker": speaker, "direct": pitch > 0},
            {
                "latents": ["batch", channels, "frames"],
                "pitch": ["batch", "frames"],
                "speaker": vector,
                "direct": ["batch", "frames"],
                "gains": ["batch", "short_frames", 4 * bins],
                "direct_gains": ["batch", "short_frames", 3 * bins],
            },
        ),
    }


def _write_network(
    path: Path, weights: SharedWeights, network: nn.Module, inputs: dict[str, Tensor], dimensions: dict[str, list[Any]]
) -> dict[str, Any]:
    """Write one network; its entry in the description."""
    import onnx

    outputs = [name for name in dimensions if name not in inputs]
    variable = {name: {i: d for i, d in enumerate(ds) if isinstance(d, str)} for name, ds in dimensions.items()}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # checks of lengths are not part of the graph
        torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            str(path),
            dynamo=False,
            do_constant_folding=False,  # the runtime does it, and the file stays small
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=variable,
        )
    model = onnx.load(path)
    weights.share(model)
    onnx.save(model, path)
    kinds = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in inputs.items()}
    return {
        "file": path.name,
        "inputs": {name: {"dimensions": dimensions[name], "type": kinds[name]} for name in inputs},
        "outputs": {name: {"dimensions": dimensions[name], "type": "float32"} for name in outputs},
    }


def _write_codebooks(codebooks: Codebooks, path: Path, weights: SharedWeights) -> dict[str, Any]:
    """Write what the weights do not have of the quantizer's tables; their entry in the description."""
    from safetensors.numpy import save

    tables = [codebooks.content, *codebooks.detail]
    arrays = {"predict": codebooks.predict}
    for i, table in enumerate(tables):
        parts = {name: getattr(table, name) for name in ("search", "values", "costs", "weight", "bias")}
        if np.array_equal(parts["search"], parts["values"]):
            parts["values"] = None
        arrays.update({f"{i}.{name}": np.ascontiguousarray(part) for name, part in parts.items() if part is not None})
    names = {name: weights.name(array) for name, array in arrays.items()}
    shared = {name: found for name, found in names.items() if found is not None and not weights.is_scaled(found)}
    own = {name: array for name, array in arrays.items() if name not in shared}
    if own:
        path.write_bytes(save(own))
    return {
        "file": path.name if own else None,
        "weights": shared,
        "normalised": [table.normalised for table in tables],
    }
