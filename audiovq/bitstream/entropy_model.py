"""Integer entropy models: reading them from a model's folder, and their weights of the next code in NumPy."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from audiovq.errors import AudioVQError, reason_of
from audiovq.io import atomic_write, checked

SHIFT = 24  # multipliers are in units of 2**-24
HALF = 1 << (SHIFT - 1)
MAX_ACTIVATION = 1023
MAX_STATE = 4095
PRECISION = 24  # probabilities are in units of 2**-24


class Network(NamedTuple):
    """What a model's ``entropy.safetensors`` holds for its codes; docs/format.md names and explains each."""

    embedding: np.ndarray  # (K, V, D) int8
    first_delays: np.ndarray  # (T0,) int64
    first_weight: np.ndarray  # (T0, D, H) int8
    first_multiplier: np.ndarray  # (H,) int64
    condition: np.ndarray  # (K, H) int64
    voicing_offsets: np.ndarray  # (O,) int64, none for a codec without coded pitch
    voicing_weight: np.ndarray  # (O, H) int8
    voicing_multiplier: np.ndarray  # (H,) int64
    delays: np.ndarray  # (L, T) int64
    weight: np.ndarray  # (L, T, H, H) int8
    multiplier: np.ndarray  # (L, H) int64
    bias: np.ndarray  # (L, H) int64
    state_weight: np.ndarray  # (K, H, U) int8
    state_multiplier: np.ndarray  # (K, U) int64
    sum_weight: np.ndarray  # (K - 1, D, U) int8
    sum_multiplier: np.ndarray  # (K - 1, U) int64
    previous: np.ndarray  # (K - 1, V, U) int8
    previous_multiplier: np.ndarray  # (K - 1, U) int64
    hidden_bias: np.ndarray  # (K, U) int64
    output_weight: np.ndarray  # (K, U, V) int8
    output_multiplier: np.ndarray  # (K, V) int64
    output_bias: np.ndarray  # (K, V) int64
    exponential: np.ndarray  # (N,) int64


def weights_of(network: Network, voiced: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Weights of each code of a row ``codes (K, F)`` whose frames are voiced (F,) or not -> (F * K, V) float32.

    They are whole numbers. Products of matrices are computed in float64, which holds all of their sums exactly.
    """
    n_books, n_frames = codes.shape
    vectors = network.embedding[np.arange(n_books)[:, None], codes].astype(np.float64)  # (K, F, D)
    state = _states(network, voiced, n_books, vectors.sum(axis=0))
    n_values = network.output_weight.shape[2]
    weights = np.empty((n_frames, n_books, n_values), np.float32)
    before = np.zeros_like(vectors[0])
    for book in range(n_books):
        value = _product(state, network.state_weight[book]) * network.state_multiplier[book]
        if book > 0:
            before += vectors[book - 1]
            value += _product(before, network.sum_weight[book - 1]) * network.sum_multiplier[book - 1]
            value += network.previous[book - 1, codes[book - 1]] * network.previous_multiplier[book - 1]
        hidden = np.clip(_scaled(value) + network.hidden_bias[book], 0, MAX_ACTIVATION)
        logits = _scaled(_product(hidden, network.output_weight[book]) * network.output_multiplier[book])
        weights[:, book] = _shares(logits + network.output_bias[book], network.exponential)
    return weights.reshape(-1, n_values)


def _states(network: Network, voiced: np.ndarray, n_books: int, sums: np.ndarray) -> np.ndarray:
    """The states (F, H) of all frames, from the sums (F, D) and the voicing of the frames before each."""
    known = np.asarray(voiced != 0, np.int64)[:, None]
    value = np.zeros((len(sums), network.condition.shape[1]), np.int64)
    for offset, weight in zip(network.voicing_offsets, network.voicing_weight, strict=True):
        value += _delayed(known, -int(offset)) * weight
    value = value * network.voicing_multiplier
    taps = zip(network.first_delays, network.first_weight, strict=True)
    value += sum(_product(_delayed(sums, int(delay)), weight) for delay, weight in taps) * network.first_multiplier
    state = np.clip(_scaled(value) + network.condition[n_books - 1], 0, MAX_ACTIVATION)
    for layer, weights in enumerate(network.weight):
        taps = zip(network.delays[layer], weights, strict=True)
        value = sum(_product(_delayed(state, int(delay)), weight) for delay, weight in taps) * network.multiplier[layer]
        state = np.minimum(state + np.clip(_scaled(value) + network.bias[layer], 0, MAX_ACTIVATION), MAX_STATE)
    return state


def _delayed(rows: np.ndarray, delay: int) -> np.ndarray:
    """Rows (F, ...) moved ``delay`` places down (up when negative), with zeros in the places that become free."""
    moved = np.zeros_like(rows)
    if abs(delay) < len(rows):
        moved[max(delay, 0) : len(rows) + min(delay, 0)] = rows[max(-delay, 0) : len(rows) - max(delay, 0)]
    return moved


def _product(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Whole numbers (F, A) times whole numbers (A, B) -> (F, B) int64."""
    return (rows.astype(np.float64) @ weight.astype(np.float64)).astype(np.int64)


def _scaled(value: np.ndarray) -> np.ndarray:
    return (value + HALF) >> SHIFT


def _shares(logits: np.ndarray, exponential: np.ndarray) -> np.ndarray:
    """Logits (F, V) -> weights (F, V) that sum to 2**PRECISION - V."""
    total = (1 << PRECISION) - logits.shape[1]
    exponents = np.minimum(logits.max(axis=1, keepdims=True) - logits, len(exponential) - 1)
    bounds = exponential[exponents].cumsum(axis=1)
    bounds *= (total << 32) // bounds[:, -1:]
    bounds >>= 32
    bounds[:, -1] = total
    bounds[:, 1:] -= bounds[:, :-1].copy()
    return bounds


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

        from audiovq.tensor_files import with_checksum

        metadata = {"format": f"audiovq entropy {VERSION}", "model_hash": self.model_hash.hex()}
        with atomic_write(Path(folder) / FILE_NAME) as path:
            path.write_bytes(with_checksum(save(self._tensors(), metadata)))
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
        tensors = load(checked(data))
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        if metadata["format"] != f"audiovq entropy {VERSION}":
            raise AudioVQError(f"{path} is of another release ({metadata['format']}); update audiovq")
        made_for = bytes.fromhex(metadata["model_hash"])
        speaker = tensors.pop("speaker").astype(np.int64)
        network = Network(**{n: t if n in _SMALL else t.astype(np.int64) for n, t in tensors.items()})
        problem = _problem(network, speaker)
    except AudioVQError:
        raise
    except Exception as error:
        raise AudioVQError(f"{path} is damaged ({reason_of(error)}): install the model again") from error
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
