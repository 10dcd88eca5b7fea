"""A prior's weights and its distribution of speakers in NumPy: reading both from a folder, and rounding to 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from audiovq.errors import AudioVQError, reason_of
from audiovq.io import checked, read_json
from audiovq.prior.sampling import Streams

FOLDER = "prior"
"""Name of a codec's prior folder, beside the codec's weights."""
CONFIG, WEIGHTS = "config.json", "model.safetensors"
SPEAKERS = "voices."
"""What the names of the tensors of the distribution of speakers begin with."""
SCALE = ".row_scale"
"""The scales of the tensor NAME are stored as ``NAME.row_scale``."""
EPS = 1e-5
"""Added to the mean square in root-mean-square normalisation, as in `audiovq.nn.sequence`."""


def round_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., O, I) float32 -> int8 of the same shape and scales (..., O), bit for bit `audiovq.devices.round_rows`."""
    scale = np.maximum(np.abs(weight).max(axis=-1), np.float32(1e-12)) / np.float32(127)
    return np.clip(np.rint(weight / scale[..., None]), -127, 127).astype(np.int8), scale


def restore_rows(rows: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The inverse of `round_rows`, float32; scales of fewer dimensions are for all that lies below theirs."""
    return rows.astype(np.float32) * scale.reshape(*scale.shape, *[1] * (rows.ndim - scale.ndim))


class PriorWeights(Streams):
    """The configuration of a prior with a transformer, and its weights.

    Args:
        config: the arguments of `audiovq.prior.CodePrior`.
        arrays: float32, by their names in its state dict.

    Raises:
        AudioVQError: for another kind of backbone, and sampling settings outside their ranges.
        KeyError, TypeError, ValueError: for a damaged configuration, and weights that do not fit it.
    """

    def __init__(self, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        backbone, depth = config["backbone"], config.get("depth") or {}
        if backbone["kind"] != "transformer":
            raise AudioVQError(f"prior {config.get('name', 'prior')} has no transformer")
        self.describe(config)
        self.arrays = arrays
        self.embedding_dim, self.speaker_dim = config.get("embedding_dim", 64), config.get("speaker_dim", 0)
        self.n_layers, self.window = backbone["n_layers"], backbone["window"]
        self.n_heads, self.n_groups = backbone["n_heads"], backbone["n_groups"]
        if self.width % self.n_heads or self.n_heads % self.n_groups or self.width // self.n_heads % 2:
            raise ValueError(f"{self.width} channels do not split into {self.n_heads} heads in {self.n_groups} groups")
        self.head_dim, self.hidden = self.width // self.n_heads, backbone.get("hidden") or 4 * self.width
        self.depth_width, self.depth_hidden = depth.get("depth_width", 256), depth.get("hidden", 512)
        self.n_depth_layers = depth.get("n_layers", 2)
        expected, found = dict(self._shapes()), {name: array.shape for name, array in arrays.items()}
        wrong = [name for name in expected | found if expected.get(name) != found.get(name)]
        if wrong:
            raise ValueError(f"the configuration does not fit the weights ({wrong[0]})")

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of all weights."""
        width, depth, n = self.width, self.depth_width, self.n_streams
        yield "embedding.vectors", (n, self.absent + 1, self.embedding_dim)
        yield "entry.weight", (width, n * self.embedding_dim)
        yield "conditioner.no_speaker", (width,)
        yield "conditioner.language", (len(self.languages) + 1, width)
        if self.speaker_dim:
            yield "conditioner.speaker.weight", (width, self.speaker_dim)
            yield "conditioner.speaker.bias", (width,)
        for i in range(self.n_layers):
            block = f"backbone.blocks.{i}."
            yield block + "attention_norm.scale", (width,)
            yield block + "attention.project.weight", ((self.n_heads + 2 * self.n_groups) * self.head_dim, width)
            yield block + "attention.mix.weight", (width, width)
            yield block + "feed_forward_norm.scale", (width,)
            yield block + "feed_forward.expand.weight", (self.hidden, width)
            yield block + "feed_forward.reduce.weight", (width, self.hidden)
        yield "backbone.norm.scale", (width,)
        yield "depth.into.weight", (n * depth, width)
        yield "depth.below", (n - 1, depth, self.embedding_dim)
        for i in range(self.n_depth_layers):
            yield f"depth.norms.{i}.scale", (depth,)
            yield f"depth.layers.{i}.expand.weight", (self.depth_hidden, depth)
            yield f"depth.layers.{i}.reduce.weight", (depth, self.depth_hidden)
        yield "depth.norm.scale", (depth,)
        yield "depth.heads", (n, self.absent, depth)

    def offset(self, n: int, speakers: np.ndarray | None, language: int | np.ndarray) -> np.ndarray:
        """The conditions' vectors (n, C) float32, which are added to every input of the backbone.

        Speaker vectors are (n or 1, S) float32, languages an index, -1 for none, or (n or 1,). A row depends on its own
        conditions alone, whatever ``n`` is.
        """
        vectors = np.broadcast_to(self.arrays["conditioner.no_speaker"], (n, self.width))
        if speakers is not None and self.speaker_dim:
            weight = self.arrays["conditioner.speaker.weight"].astype(np.float64)
            products = (speakers[:, None, :] * weight).sum(axis=-1)  # unlike BLAS, in one order for every n
            vectors = (products + self.arrays["conditioner.speaker.bias"]).astype(np.float32)
        # The last language is the unknown one.
        return np.broadcast_to(vectors + self.arrays["conditioner.language"][language], (n, self.width))


def rotary_row(position: int, dim: int, base: float = 10000.0) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines (dim / 2,) float32 of one position, see `audiovq.nn.sequence.rotary_table`."""
    angles = position * base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


class SpeakerDistribution:
    """A Gaussian kernel around the mean vector of each training speaker.

    Kernels share one covariance: that between speakers, scaled by Scott's rule (Scott 1992), along its leading
    directions only. A few speakers, far fewer than dimensions squared, do not determine the others.

    Args:
        means: (N, S) float32, in integer levels.
        weights: (N,) float32, summing to 1.
        factor: (S, R) float32; a kernel's noise is ``factor @ normal(R)``.
        spread: (S,) float32, deviation within a speaker's recordings.
        levels: number of levels of each value.
        loudness: (N,) float32, mean level code of each speaker's packets.
    """

    def __init__(
        self,
        means: np.ndarray,
        weights: np.ndarray,
        factor: np.ndarray,
        spread: np.ndarray,
        levels: int,
        loudness: np.ndarray,
    ) -> None:
        self.means, self.weights, self.factor, self.spread = means, weights, factor, spread
        self.levels, self.loudness = levels, loudness

    @classmethod
    def fit(
        cls,
        vectors: np.ndarray,
        speakers: Sequence[str],
        seconds: np.ndarray,
        levels: int,
        loudness: np.ndarray,
        min_seconds: float = 20.0,
    ) -> SpeakerDistribution:
        """Fit to recordings: vectors (N, S) in ``levels`` integer levels, names of speakers, seconds (N,), level codes
        (N,); speakers with less than ``min_seconds`` are left out.

        Raises:
            ValueError: without recordings.
        """
        names = np.asarray(speakers)
        totals = {name: float(seconds[names == name].sum()) for name in sorted(set(speakers))}
        kept = [name for name, total in totals.items() if total >= min_seconds] or list(totals)
        if not kept:
            raise ValueError("there are no recordings")
        rows = vectors.astype(np.float64)
        means = np.stack([np.average(rows[names == n], axis=0, weights=seconds[names == n]) for n in kept])
        inside = [rows[names == n] - mean for n, mean in zip(kept, means, strict=True)]
        spread = np.sqrt(np.concatenate(inside).var(axis=0))
        n, dim = means.shape
        centred = means - means.mean(0)
        _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
        energy = np.cumsum(sizes**2) / max(float(np.sum(sizes**2)), 1e-12)
        rank = min(int(np.searchsorted(energy, 0.9)) + 1, len(sizes))
        bandwidth = n ** (-1 / (rank + 4))
        factor = bandwidth * directions[:rank].T * (sizes[:rank] / np.sqrt(max(n - 1, 1)))
        weights = np.sqrt([totals[name] for name in kept])  # much speech makes a speaker only a little likelier
        parts = (means, weights / weights.sum(), factor.reshape(dim, -1), spread)
        means, weights, factor, spread = (np.ascontiguousarray(part, np.float32) for part in parts)
        loud = np.array([np.average(loudness[names == n], weights=seconds[names == n]) for n in kept], np.float32)
        return cls(means, weights, factor, spread, levels, loud)

    def level_of(self, vector: np.ndarray) -> int:
        """Level code of a speaker (S,): that of the nearest training speaker."""
        return round(float(self.loudness[np.square(self.means - vector).sum(1).argmin()]))

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A random speaker vector, (S,) int64 in ``[0, levels)``."""
        mean = self.means[
            rng.choice(len(self.means), p=self.weights.astype(np.float64) / self.weights.sum(dtype=float))
        ]
        value = mean + self.factor @ rng.standard_normal(self.factor.shape[1])
        return np.clip(np.round(value), 0, self.levels - 1).astype(np.int64)

    def tensors(self) -> dict[str, np.ndarray]:
        """The parameters by name, for a file of weights."""
        return {
            "means": self.means,
            "weights": self.weights,
            "factor": self.factor,
            "spread": self.spread,
            "levels": np.array([self.levels], np.float32),
            "loudness": self.loudness,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> SpeakerDistribution:
        """The inverse of `tensors`."""
        names = ("means", "weights", "factor", "spread", "loudness")
        named = {name: np.ascontiguousarray(tensors[name], np.float32) for name in names}
        return cls(**named, levels=int(tensors["levels"][0]))


# -- priors on disk -----------------------------------------------------------------------------------------------


def check_prior(folder: Path) -> None:
    """Check that there is a prior, without loading it. Raises `AudioVQError` when there is none."""
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise AudioVQError(
            f"no prior in {folder}: train one with `audiovq train experiment=prior task.codec=MODEL`, on the codes of "
            "that model"
        )


def is_transformer(folder: Path) -> bool:
    """Whether the prior in a folder is one for `PriorWeights`; True where it is damaged, which loading reports."""
    try:
        return read_json(folder / CONFIG)["backbone"]["kind"] == "transformer"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return True


def read_prior(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], SpeakerDistribution | None]:
    """Configuration, weights in float32, and distribution of speakers of the prior in a folder.

    Raises:
        Exception: of any type, when it is damaged; see `damage_in`.
    """
    from safetensors.numpy import load

    tensors = load(checked((folder / WEIGHTS).read_bytes()))
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(SPEAKERS)}
    voices = {n.removeprefix(SPEAKERS): tensor for n, tensor in tensors.items() if n.startswith(SPEAKERS)}
    speakers = SpeakerDistribution.from_tensors(voices) if voices else None
    return read_json(folder / CONFIG), restore(weights), speakers


def restore(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of a file in float32, those in 8 bits with their scales taken in."""
    found = {}
    for name, array in tensors.items():
        if not name.endswith(SCALE):
            scale = tensors.get(name + SCALE)
            found[name] = array.astype(np.float32) if scale is None else restore_rows(array, scale)
    return found


@contextmanager
def damage_in(folder: Path) -> Iterator[None]:
    """Turn errors of any type into one line about the prior in a folder. Raises `AudioVQError` for any error."""
    try:
        yield
    except Exception as error:
        reason = f"it has no entry {error}" if isinstance(error, KeyError) else reason_of(error)
        raise AudioVQError(f"the prior in {folder} cannot be loaded: {reason}") from error


def check_codec(folder: Path, trained_on: str, codec: Any) -> None:
    """Check that a prior is for a codec's codes; None for any.

    Raises:
        AudioVQError: when it was trained on those of another.
    """
    if codec is not None and trained_on != codec.model_hash.hex():
        raise AudioVQError(
            f"the prior in {folder} was trained on codes of model {trained_on or 'none'}, not on those of "
            f"{codec.name} ({codec.model_hash.hex()}); train one on them: audiovq train experiment=prior"
        )
