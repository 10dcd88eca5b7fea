"""The speech codec on ONNX Runtime, from a folder that `audiovq export onnx` wrote. It needs no PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from audiovq.codec.coding import Codebooks, StreamingCodec, Table, parallel_stream
from audiovq.errors import AudioVQError, need
from audiovq.hub import ONNX_DESCRIPTION as DESCRIPTION
from audiovq.hub import codes_hash, onnx_folder
from audiovq.interfaces import CodecShape, Stretch
from audiovq.io import file_sha256

CODEBOOKS, WEIGHTS = "codebooks.safetensors", "model.safetensors"
VERSION = 2


class OnnxEngine:
    """An `audiovq.interfaces.Engine`; each network is loaded at its first use.

    Args:
        paths: of the .onnx files, by the names of the networks.
        shape: sizes of the networks.
        threads: of each network.

    Raises:
        AudioVQError: when ONNX Runtime is not installed.
    """

    def __init__(self, paths: dict[str, Path], shape: CodecShape, threads: int = 1) -> None:
        self._paths, self._shape, self._threads = paths, shape, threads
        self._runtime = need("onnxruntime", "the engine onnx", "onnx")
        self._sessions: dict[str, Any] = {}

    def speaker(self, samples: np.ndarray) -> np.ndarray:
        """See `audiovq.interfaces.Engine`, as for the other methods."""
        return self._run("speaker", ["levels"], waveform=samples[None, None])[0][0]

    def pitch(self, samples: np.ndarray, stretch: Stretch) -> np.ndarray:
        return self._run("pitch", ["logits"], waveform=samples[None, None])[0][0, stretch.wanted]

    def latents(self, samples: np.ndarray, source: np.ndarray, speaker: np.ndarray, stretch: Stretch) -> np.ndarray:
        inputs = {"waveform": samples[None, None], "speaker": speaker[None], "source": source[None, None]}
        return self._run("encoder", ["latents"], **inputs)[0][0][:, stretch.wanted]

    def gains(
        self, latents: np.ndarray, pitch: np.ndarray, speaker: np.ndarray, direct: bool, stretch: Stretch
    ) -> tuple[np.ndarray, np.ndarray | None]:
        low, frames = stretch.start * self._shape.rate, self._shape.short_frames(stretch)
        part = slice(frames.start - low, frames.stop - low)
        inputs = {"latents": latents[None], "pitch": pitch[None], "speaker": speaker[None]}
        names = ["gains", "direct_gains"] if direct else ["gains"]
        found = [array[0, part] for array in self._run("decoder", names, direct=np.array([direct]), **inputs)]
        return found[0], found[1] if direct else None

    def _run(self, network: str, outputs: list[str], **inputs: np.ndarray) -> list[np.ndarray]:
        options = self._runtime.RunOptions()
        options.only_execute_path_to_fetches = True
        return self._session(network).run(outputs, inputs, options)

    def _session(self, network: str) -> Any:
        if network not in self._sessions:
            options = self._runtime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
            options.log_severity_level = 3
            try:
                self._sessions[network] = self._runtime.InferenceSession(
                    str(self._paths[network]), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:
                raise AudioVQError(f"{self._paths[network]} cannot be loaded: {str(error).splitlines()[0]}") from error
        return self._sessions[network]


class OnnxCodec(StreamingCodec):
    """A speech codec whose networks run on ONNX Runtime: codes, samples and files are those of `SpeechCodec` but for
    rounding.

    Args:
        folder: that `audiovq export onnx` wrote.
        threads: of each network.

    Raises:
        AudioVQError: for a folder that is damaged, and when ONNX Runtime is not installed.
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        from safetensors import SafetensorError

        folder = Path(folder)
        try:
            found = json.loads((folder / DESCRIPTION).read_text())
            if found["version"] != VERSION:
                raise ValueError(f"it is of version {found['version']}, and {VERSION} is read")
            self._shape = CodecShape(**found["shape"])
            self.weights_sha256 = found["weights_sha256"]
            self._codebooks = _read_codebooks(folder, found["codebooks"])
            paths = {name: folder / network["file"] for name, network in found["networks"].items()}
            self.name, self.model_hash = found["name"], codes_hash(folder)
            self.packet_frames, self.default_n_codebooks = found["packet_frames"], found["default_n_codebooks"]
            self.conversion_codebooks = found["conversion_codebooks"] or self.default_n_codebooks
            fits = file_sha256(folder / WEIGHTS) == self.weights_sha256
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise AudioVQError(f"the model in {folder} cannot be loaded: its files are damaged ({error})") from error
        if not fits:
            raise AudioVQError(f"the ONNX networks in {folder} were not exported from its weights: export again")
        self.folder = folder
        self.sample_rate, self.hop_length = self._shape.sample_rate, self._shape.hop_length
        self.frame_rate = self.sample_rate / self.hop_length
        self.n_codebooks, self.codebook_size = len(self._codebooks), self._codebooks.size
        self._decoders = {"parallel": parallel_stream}
        self._engine = OnnxEngine(paths, self._shape, threads)

    @property
    def engine(self) -> OnnxEngine:
        """Computes the networks."""
        return self._engine

    @property
    def shape(self) -> CodecShape:
        """Sizes of the networks."""
        return self._shape

    @property
    def codebooks(self) -> Codebooks:
        """The quantizer's tables."""
        return self._codebooks

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None, threads: int = 1) -> OnnxCodec:
        """Load a bundled model by name (None: the bundled speech model) or a folder that `audiovq export onnx` wrote.

        Raises:
            AudioVQError: when there is no such model, it was not exported, its files are damaged, or the weights beside
                the export are other ones than those that were exported.
        """
        return cls(onnx_folder(name_or_dir), threads)


def _read_codebooks(folder: Path, entry: dict[str, Any]) -> Codebooks:
    """The quantizer's tables.

    Raises:
        SafetensorError: for a damaged file.
    """
    from safetensors import safe_open

    arrays: dict[str, np.ndarray] = {}
    with safe_open(folder / WEIGHTS, "numpy") as weights:
        for name, source in entry["weights"].items():
            arrays[name] = weights.get_tensor(source).astype(np.float32)
    if entry["file"]:
        with safe_open(folder / entry["file"], "numpy") as own:
            arrays |= {name: own.get_tensor(name) for name in own.keys()}  # noqa: SIM118
    tables = []
    for i, normalised in enumerate(entry["normalised"]):
        search = arrays[f"{i}.search"]
        others = {name: arrays.get(f"{i}.{name}") for name in ("costs", "weight", "bias")}
        tables.append(Table(search, arrays.get(f"{i}.values", search), normalised=normalised, **others))
    return Codebooks(tables[0], tables[1:], arrays["predict"])
