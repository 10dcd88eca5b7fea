"""``entropy.safetensors``: the integers that predict a model's codes, beside its weights and bound to them by hash."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from audiovq.bitstream.entropy_network import MAX_ACTIVATION, MAX_STATE, PRECISION, Network
from audiovq.errors import AudioVQError
from audiovq.io import atomic_write

FILE_NAME = "entropy.safetensors"
VERSION = "1"
_SMALL = {
    "embedding",
    "first_weight",
    "voicing_weight",
    "weight",
    "state_weight",
    "sum_weight",
    "previous",
    "output_weight",
}
_MAX_INT32 = 2**31 - 1
_MAX_REACH = 32  # frames of voicing on either side


@dataclass(frozen=True)
class EntropyModel:
    """Probabilities of a model's codes and speaker vectors, as integers.

    Attributes:
        model_hash: of the model whose codes they are.
        network: predicts each code from the frames before it and the coarser codes of its frame.
        speaker: (S, 2**v) int64, weights of each value of a speaker vector; each row sums to 2**24 - 2**v.
    """

    model_hash: bytes
    network: Network
    speaker: np.ndarray

    @property
    def n_codebooks(self) -> int:
        """Codebooks the network knows."""
        return len(self.network.embedding)

    @property
    def codebook_size(self) -> int:
        """Codes of each."""
        return self.network.embedding.shape[1]

    @cached_property
    def identity(self) -> bytes:
        """Two bytes that tell entropy models apart; files carry them, since codes read with another one would be wrong.

        They begin the SHA-256 of each tensor's name and data as the file has them, in the order of the names.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode() + tensor.astype(tensor.dtype.newbyteorder("<")).tobytes())
        return digest.digest()[:2]

    def _tensors(self) -> dict[str, np.ndarray]:
        arrays = {**self.network._asdict(), "speaker": self.speaker}
        return {
            name: np.ascontiguousarray(array, np.int8 if name in _SMALL else np.int32) for name, array in arrays.items()
        }

    def save(self, folder: str | Path) -> Path:
        """Write the file into a model's folder; int8 where the values are small, int32 elsewhere."""
        from safetensors.numpy import save

        metadata = {"format": f"audiovq entropy {VERSION}", "model_hash": self.model_hash.hex()}
        with atomic_write(Path(folder) / FILE_NAME) as path:
            path.write_bytes(save(self._tensors(), metadata))
        return Path(folder) / FILE_NAME


def load_entropy_model(folder: str | Path, model_hash: bytes) -> EntropyModel | None:
    """The entropy model in a model's folder; None when there is none, or when it was made for other weights.

    Raises:
        AudioVQError: for a damaged file.
    """
    from safetensors.numpy import load

    path = Path(folder) / FILE_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        (length,) = struct.unpack_from("<Q", data)
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        tensors = load(data)
        if metadata["format"] != f"audiovq entropy {VERSION}":
            raise AudioVQError(f"{path} is of another release ({metadata['format']}); update audiovq")
        made_for = bytes.fromhex(metadata["model_hash"])
        speaker = tensors.pop("speaker").astype(np.int64)
        network = Network(**{n: t if n in _SMALL else t.astype(np.int64) for n, t in tensors.items()})
        problem = _problem(network, speaker)
    except AudioVQError:
        raise
    except Exception as error:
        raise AudioVQError(f"{path} is damaged ({str(error).splitlines()[0]}): install the model again") from error
    if problem:
        raise AudioVQError(f"{path} is damaged ({problem}): install the model again")
    return EntropyModel(made_for, network, speaker) if made_for == model_hash else None


def _problem(network: Network, speaker: np.ndarray) -> str | None:
    """What is wrong with shapes or sizes of the numbers; the kernels rely on them, so that nothing can overflow."""
    n_books, n_values, dim = network.embedding.shape
    n_taps, _, width = network.first_weight.shape
    n_layers, n_later, _, _ = network.weight.shape
    n_hidden = network.output_weight.shape[1]
    shapes = {
        "first_delays": (n_taps,),
        "first_weight": (n_taps, dim, width),
        "first_multiplier": (width,),
        "condition": (n_books, width),
        "voicing_offsets": network.voicing_offsets.shape[:1],
        "voicing_weight": (len(network.voicing_offsets), width),
        "voicing_multiplier": (width,),
        "delays": (n_layers, n_later),
        "weight": (n_layers, n_later, width, width),
        "multiplier": (n_layers, width),
        "bias": (n_layers, width),
        "state_weight": (n_books, width, n_hidden),
        "state_multiplier": (n_books, n_hidden),
        "sum_weight": (n_books - 1, dim, n_hidden),
        "sum_multiplier": (n_books - 1, n_hidden),
        "previous": (n_books - 1, n_values, n_hidden),
        "previous_multiplier": (n_books - 1, n_hidden),
        "hidden_bias": (n_books, n_hidden),
        "output_weight": (n_books, n_hidden, n_values),
        "output_multiplier": (n_books, n_values),
        "output_bias": (n_books, n_values),
    }
    for name, shape in shapes.items():
        if getattr(network, name).shape != shape:
            return f"{name} has the shape {getattr(network, name).shape}, not {shape}"
    for name in _SMALL:
        if getattr(network, name).dtype != np.int8:
            return f"{name} is not int8"
    # Sums of products stay in 32 bits, three of them times a multiplier in 64.
    terms = max(n_taps * dim * 127 * n_books, max(n_later, 1) * width * MAX_STATE, n_hidden * MAX_ACTIVATION)
    if 128 * terms > _MAX_INT32:
        return "it is too wide for sums of 32 bits"
    if (network.first_delays < 1).any() or (network.delays < 0).any():
        return "it looks into the future"
    if not len(network.voicing_offsets) or abs(network.voicing_offsets).max() > _MAX_REACH:
        return "it looks at no voicing, or too far"
    exponential = network.exponential
    if exponential.ndim != 1 or exponential[0] < 1 or exponential.min() < 0 or exponential.max() > 1 << 20:
        return "its exponential is out of range"
    rows = speaker.sum(axis=1)
    if speaker.min() < 0 or (rows != (1 << PRECISION) - speaker.shape[1]).any():
        return "its speaker weights do not sum up"
    return None
