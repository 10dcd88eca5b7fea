"""The speech codec on ONNX Runtime, from a folder that `audiovq export onnx` wrote. It needs no PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from audiovq.codec.coding import Codebooks, StreamingCodec, Table, parallel_stream
from audiovq.errors import AudioVQError, need
from audiovq.hub import BUNDLED, codes_hash, export_command, onnx_folder
from audiovq.hub import ONNX_DESCRIPTION as DESCRIPTION
from audiovq.interfaces import CodecShape, Stretch
from audiovq.io import file_sha256, n_cores, read_json

CODEBOOKS, CONFIG, WEIGHTS = "codebooks.safetensors", "config.json", "model.safetensors"
NETWORKS = ("encoder", "pitch", "speaker", "decoder")
VERSION = 4
_FATAL = 4
"""Severity from which on ONNX Runtime writes to stderr itself: its errors are raised as well."""


class OnnxEngine:
    """An `audiovq.interfaces.Engine` from .onnx files by the names of the networks; raises `AudioVQError` without ONNX
    Runtime.

    Each network is loaded at its first use, also by copies in memory or in a forked process. No more ``threads`` are
    used than there are cores, where they would wait for each other.
    """

    def __init__(self, paths: dict[str, Path], shape: CodecShape, threads: int = 1) -> None:
        self._paths, self._shape, self._threads = paths, shape, min(threads, n_cores())
        need("onnxruntime", "the engine onnx", None)
        self._sessions: dict[tuple[int, str], Any] = {}  # by process: threads do not survive a fork

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sessions": {}}

    def speaker(self, samples: np.ndarray) -> np.ndarray:
        """See `audiovq.interfaces.Engine`, as for the other methods."""
        return self._run("speaker", ["levels"], waveform=samples[None, None])[0][0]

    def pitch(self, samples: np.ndarray, stretch: Stretch) -> np.ndarray:
        return self._run("pitch", ["logits"], waveform=samples[None, None])[0][0, stretch.wanted]

    def latents(self, samples: np.ndarray, source: np.ndarray, speaker: np.ndarray, stretch: Stretch) -> np.ndarray:
        inputs = {"waveform": samples[None, None], "speaker": speaker[None], "source": source[None, None]}
        return self._run("encoder", ["latents"], **inputs)[0][0][:, stretch.wanted]

    def gains(
        self, latents: np.ndarray, pitch: np.ndarray, speaker: np.ndarray, direct: np.ndarray, stretch: Stretch
    ) -> tuple[np.ndarray, np.ndarray | None]:
        low, frames = stretch.start * self._shape.rate, self._shape.short_frames(stretch)
        part = slice(frames.start - low, frames.stop - low)
        inputs = {"latents": latents[None], "pitch": pitch[None], "speaker": speaker[None], "direct": direct[None]}
        names = ["gains", "direct_gains"] if direct.any() else ["gains"]
        found = [array[0, part] for array in self._run("decoder", names, **inputs)]
        return found[0], found[1] if len(found) > 1 else None

    def _run(self, network: str, outputs: list[str], **inputs: np.ndarray) -> list[np.ndarray]:
        """Outputs of a network; raises `AudioVQError` for a damaged file or too little memory."""
        from onnxruntime import RunOptions

        options = RunOptions()
        options.only_execute_path_to_fetches = True
        options.log_severity_level = _FATAL
        session = self._session(network)
        try:
            return session.run(outputs, inputs, options)
        except Exception as error:
            raise AudioVQError(f"{self._paths[network]} cannot be computed: {_reason(error)}") from error

    def _session(self, network: str) -> Any:
        from onnxruntime import InferenceSession, SessionOptions

        key = (os.getpid(), network)
        if key not in self._sessions:
            options = SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
            options.log_severity_level = _FATAL
            path = self._paths[network]
            try:
                with _utf8(path) as name:
                    self._sessions[key] = InferenceSession(name, options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise AudioVQError(f"{path} cannot be loaded: {_reason(error)}") from error
        return self._sessions[key]


@contextmanager
def _utf8(path: Path) -> Iterator[str]:
    """A name of a file for ONNX Runtime, which does not know those that are not UTF-8."""
    if os.fsencode(path) == str(path).encode("utf-8", "replace") or not os.path.isdir("/proc/self/fd"):
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _reason(error: Exception) -> str:
    """An error of a library or of the system in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{Path(str(error.filename)).name}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    if isinstance(error, KeyError):
        return f"it has no entry {error}"
    return " ".join(str(error).split()) or type(error).__name__


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
        folder = Path(folder)
        try:
            found = read_json(folder / DESCRIPTION)
            if found["version"] != VERSION:
                raise ValueError(f"{DESCRIPTION} is of version {found['version']}, and {VERSION} is read")
            _check_files(folder, found["files"])
            self.shape = CodecShape(**found["shape"])
            self.codebooks = _read_codebooks(folder, found["codebooks"])
            paths = {name: folder / found["networks"][name]["file"] for name in NETWORKS}
            self.name, self.model_hash = found["name"], codes_hash(folder)
            self.packet_frames, self.default_n_codebooks = found["packet_frames"], found["default_n_codebooks"]
            self.conversion_codebooks = found["conversion_codebooks"] or self.default_n_codebooks
        except ImportError:
            raise
        except Exception as error:
            reason = _reason(error) + ("" if isinstance(error, PermissionError) else f"; {_remedy(folder)}")
            raise AudioVQError(f"the model in {folder} cannot be loaded: {reason}") from error
        self.folder = folder
        self.sample_rate, self.hop_length = self.shape.sample_rate, self.shape.hop_length
        self.frame_rate = self.sample_rate / self.hop_length
        self.n_codebooks, self.codebook_size = len(self.codebooks), self.codebooks.size
        self._decoders = {"parallel": parallel_stream}
        self.engine = OnnxEngine(paths, self.shape, threads)

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None, threads: int = 1) -> OnnxCodec:
        """Load a bundled model by name (None: the bundled speech model) or a folder that `audiovq export onnx` wrote.

        Raises:
            AudioVQError: when there is no such model, it was not exported, its files are damaged, or the weights beside
                the export are other ones than those that were exported.
        """
        return cls(onnx_folder(name_or_dir), threads)


def _check_files(folder: Path, files: dict[str, str]) -> None:
    """Compare the files of an export with their hashes: of any others, codes and samples would be wrong ones.

    Raises:
        OSError: when one cannot be read.
        ValueError: when one has changed.
    """
    for name, sha256 in files.items():
        if file_sha256(folder / name) != sha256:
            raise ValueError(
                f"its ONNX networks are not of the weights beside them ({name} has changed since the export)"
                if name in (CONFIG, WEIGHTS)
                else f"{name} is damaged or belongs to another export"
            )


def _remedy(folder: Path) -> str:
    if folder.is_relative_to(BUNDLED):
        return "install audiovq again"
    return f"{export_command(folder)} writes its ONNX networks again, and --engine torch needs none"


def _read_codebooks(folder: Path, entry: dict[str, Any]) -> Codebooks:
    """The quantizer's tables. Raises `SafetensorError` for a damaged file."""
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
