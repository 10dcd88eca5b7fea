"""Integer entropy models: reading them from a model's folder, and their network in NumPy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from audiovq.hub import read_companion

SHIFT = 24  # multipliers are in units of 2**-24
HALF = 1 << (SHIFT - 1)
MAX_ACTIVATION = 1023
MAX_STATE = 4095
PRECISION = 24  # probabilities are in units of 2**-24
_WORD = 32
_MASK = (1 << 64) - 1


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


class Predictor:
    """The integer network in NumPy, for one frame ``at`` or for many, ``at (N,)``; arrays then have N rows.

    Products are in float64, which holds all sums exactly.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.places = np.arange(network.output_weight.shape[2])
        self._first, self._later, self._state, self._sum = (
            weight.astype(np.float64)
            for weight in (network.first_weight, network.weight, network.state_weight, network.sum_weight)
        )
        self._output: dict[int, np.ndarray] = {}

    def begin(self, voiced: np.ndarray, n_books: int) -> None:
        """Start a row with ``n_books`` codebooks whose frames are voiced (F,) or not."""
        network, n_frames = self.network, len(voiced)
        n_layers, _, width, _ = network.weight.shape
        # Row 0 stands for all frames before the first.
        self.sums = np.zeros((1 + n_frames, network.embedding.shape[2]))
        self.states = np.zeros((n_layers + 1, 1 + n_frames, width))
        side = np.zeros((n_frames, width), np.int64)
        known = np.flatnonzero(voiced)
        for offset, weight in zip(network.voicing_offsets.tolist(), network.voicing_weight, strict=True):
            places = known - offset
            side[places[(places >= 0) & (places < n_frames)]] += weight
        self._side = side * network.voicing_multiplier + HALF
        self._condition = network.condition[n_books - 1]

    def step(self, at: int | np.ndarray) -> None:
        """Compute the states of frames from the codes of the frames before them."""
        network = self.network
        value = _taps(self.sums, at, network.first_delays, self._first) * network.first_multiplier
        state = np.clip(((value + self._side[at]) >> SHIFT) + self._condition, 0, MAX_ACTIVATION)
        self.states[0, at + 1] = state
        for layer, weights in enumerate(self._later):
            value = _taps(self.states[layer], at, network.delays[layer], weights) * network.multiplier[layer]
            value = ((value + HALF) >> SHIFT) + network.bias[layer]
            state = np.minimum(state + np.clip(value, 0, MAX_ACTIVATION), MAX_STATE)
            self.states[layer + 1, at + 1] = state

    def bounds(self, book: int, at: int | np.ndarray, before: int | np.ndarray) -> np.ndarray:
        """Sums of the weights of the codes before each (..., V), given the code of the book before this one."""
        network = self.network
        value = _integers(self.states[-1, at + 1] @ self._state[book]) * network.state_multiplier[book]
        if book > 0:
            value += _integers(self.sums[at + 1] @ self._sum[book - 1]) * network.sum_multiplier[book - 1]
            value += network.previous[book - 1, before] * network.previous_multiplier[book - 1]
        hidden = np.clip(((value + HALF) >> SHIFT) + network.hidden_bias[book], 0, MAX_ACTIVATION)
        if book not in self._output:
            self._output[book] = network.output_weight[book].astype(np.float64)
        value = _integers(hidden.astype(np.float64) @ self._output[book]) * network.output_multiplier[book]
        logits = ((value + HALF) >> SHIFT) + network.output_bias[book]
        exponents = np.minimum(logits.max(axis=-1, keepdims=True) - logits, len(network.exponential) - 1)
        ends = network.exponential[exponents].cumsum(axis=-1)
        factor = (((1 << PRECISION) - len(self.places)) << 32) // ends[..., -1:]
        begins = np.zeros_like(ends)
        begins[..., 1:] = (ends[..., :-1] * factor) >> 32
        return begins

    def account(self, book: int, at: int | np.ndarray, code: int | np.ndarray) -> None:
        """Take codes into account for those that follow."""
        self.sums[at + 1] += self.network.embedding[book, code]

    def weights(self, voiced: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Weights of each code of a row ``codes (K, F)`` whose frames are voiced (F,) or not -> (F * K, V) float32.

        They are whole numbers that sum to 2**PRECISION - V.
        """
        n_books, n_frames = codes.shape
        every = np.arange(n_frames)
        self.begin(voiced, n_books)
        for book, row in enumerate(codes):
            self.account(book, every, row)
        self.step(every)
        self.sums[:] = 0
        weights = np.empty((n_frames, n_books, len(self.places)), np.float32)
        for book, row in enumerate(codes):
            begins = self.bounds(book, every, codes[book - 1])
            weights[:, book] = np.diff(begins, append=(1 << PRECISION) - len(self.places))
            self.account(book, every, row)
        return weights.reshape(-1, len(self.places))

    def decode_rows(self, voiced: np.ndarray, data: bytes, codes: np.ndarray) -> int:
        """As `audiovq.bitstream.entropy_kernels.decode_rows`: fill ``codes (R, K, F)`` -> the bytes asked for, or -1.

        It decodes some thirty seconds of speech in a second and starts at once, without compiling.
        """
        n_rows, n_books, n_frames = codes.shape
        padded = data + bytes(12)
        offset, width, position = int.from_bytes(padded[:8], "big"), _MASK, 8
        for row in range(n_rows):
            self.begin(voiced[row], n_books)
            for t in range(n_frames):
                self.step(t)
                before = 0
                for book in range(n_books):
                    bounds = self.bounds(book, t, before) + self.places
                    scale = width >> PRECISION
                    quantile = offset // scale
                    if quantile >= 1 << PRECISION:
                        return -1
                    before = int(np.searchsorted(bounds, quantile, "right")) - 1
                    begin = int(bounds[before])
                    end = int(bounds[before + 1]) if before + 1 < len(bounds) else 1 << PRECISION
                    offset -= scale * begin
                    width = scale * (end - begin)
                    if width >> _WORD == 0:
                        word = int.from_bytes(padded[position : position + 4].ljust(4, b"\0"), "big")
                        offset, width = (offset << _WORD | word) & _MASK, width << _WORD
                        position += 4
                    codes[row, book, t] = before
                    self.account(book, t, before)
        return position


def _taps(rows: np.ndarray, at: int | np.ndarray, delays: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum of the products of rows ``delays`` before ``at`` with their weights; row 0 is all zeros."""
    places = (np.maximum(at + 1 - delay, 0) for delay in delays.tolist())
    return _integers(sum(rows[place] @ weight for place, weight in zip(places, weights, strict=True)))


def _integers(value: np.ndarray | int) -> np.ndarray:
    return np.asarray(value).astype(np.int64)


FILE_NAME = "entropy.safetensors"
FORM = "entropy 1"  # kind and version of the file
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
    """Probabilities of a model's codes and speaker vectors, as integers."""

    model_hash: bytes  # of the model whose codes they are
    network: Network  # predicts each code from the frames before it and the coarser codes of its frame
    speaker: np.ndarray  # (S, 2**v) int64, weights of each value of a speaker vector; rows sum to 2**24 - 2**v

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
        from audiovq.tensor_files import write_companion

        write_companion(Path(folder) / FILE_NAME, self._tensors(), FORM, self.model_hash)
        return Path(folder) / FILE_NAME


def load_entropy_model(folder: str | Path, model_hash: bytes) -> EntropyModel | None:
    """The entropy model in a model's folder; None when there is none, or when it was made for other weights.

    Raises:
        AudioVQError: for a damaged file.
    """

    def build(tensors: dict[str, np.ndarray]) -> EntropyModel:
        speaker = tensors.pop("speaker").astype(np.int64)
        network = Network(**{n: t if n in _SMALL else t.astype(np.int64) for n, t in tensors.items()})
        if problem := _problem(network, speaker):
            raise ValueError(problem)
        return EntropyModel(model_hash, network, speaker)

    return read_companion(Path(folder) / FILE_NAME, FORM, model_hash, build)


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
