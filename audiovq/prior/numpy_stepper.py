"""Sampling without compiled kernels: a prior with a transformer, computed step by step in NumPy."""

from __future__ import annotations

import numpy as np

from audiovq.prior.sampling import SamplingConfig, sample_codes
from audiovq.prior.weights import EPS, PriorWeights, rotary_row


class NumpyStepper:
    """A batch of sequences that grow frame by frame: `audiovq.prior.compiled.CompiledStepper` in NumPy.

    Every product is of one sequence, so that its codes do not depend on the batch.

    Args:
        weights: of the prior.
        offset: (B, C) float32, the conditions' vector that is added to every input.
        config: sampling settings.
        n_streams: number of streams to sample.
    """

    def __init__(self, weights: PriorWeights, offset: np.ndarray, config: SamplingConfig, n_streams: int) -> None:
        self.weights, self.offset, self.config, self.n_streams = weights, offset, config, n_streams
        cache = (weights.n_layers, len(offset), weights.n_groups, weights.window, weights.head_dim)
        self.keys, self.values = np.zeros(cache, np.float32), np.zeros(cache, np.float32)
        into = weights.arrays["depth.into.weight"]
        self.into = into.reshape(weights.n_streams, weights.depth_width, weights.width)
        self.length = 0

    def hidden(self, codes: np.ndarray) -> np.ndarray:
        """The frame before (B, S) -> the backbone's output (B, C) for the next frame."""
        w, arrays = self.weights, self.weights.arrays
        vectors = arrays["embedding.vectors"][np.arange(w.n_streams), codes]
        x = _times(vectors.reshape(len(codes), -1), arrays["entry.weight"]) + self.offset
        table = rotary_row(self.length, w.head_dim)
        for layer in range(w.n_layers):
            block = f"backbone.blocks.{layer}."
            x = x + self._attend(_normalise(x, arrays[block + "attention_norm.scale"]), layer, table)
            normed = _normalise(x, arrays[block + "feed_forward_norm.scale"])
            x = x + self._feed_forward(normed, block + "feed_forward.")
        self.length += 1
        return _normalise(x, arrays["backbone.norm.scale"])

    def logits(self, rows: np.ndarray, stream: int) -> np.ndarray:
        """A stream's part of the backbone's output plus the vectors of the coarser codes (B, D) -> (B, V)."""
        arrays = self.weights.arrays
        for layer in range(self.weights.n_depth_layers):
            normed = _normalise(rows, arrays[f"depth.norms.{layer}.scale"])
            rows = rows + self._feed_forward(normed, f"depth.layers.{layer}.")
        heads = arrays["depth.heads"][stream, : self.weights.sizes[stream]]
        return _times(_normalise(rows, arrays["depth.norm.scale"]), heads)

    def advance(self, codes: np.ndarray, uniforms: np.ndarray | None) -> np.ndarray | None:
        """See `audiovq.prior.networks.Stepper.advance`."""
        hidden = self.hidden(codes)
        if uniforms is None:
            return None
        arrays, known = self.weights.arrays, np.zeros((len(codes), self.weights.depth_width), np.float32)
        sampled = np.empty((len(codes), self.n_streams), np.int64)
        for k in range(self.n_streams):
            rows = _times(hidden, self.into[k]) + known
            sampled[:, k] = sample_codes(self.logits(rows, k), uniforms[:, k], self.config)
            if k + 1 < self.n_streams:
                known = known + _times(arrays["embedding.vectors"][k, sampled[:, k]], arrays["depth.below"][k])
        return sampled

    def _attend(self, x: np.ndarray, layer: int, table: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Attention of one layer (B, C) -> (B, C); its keys and values enter the ring buffer."""
        w, block = self.weights, f"backbone.blocks.{layer}.attention."
        heads = _times(x, w.arrays[block + "project.weight"]).reshape(len(x), -1, w.head_dim)
        queries, keys, values = np.split(heads, [w.n_heads, w.n_heads + w.n_groups], axis=1)
        slot, seen = self.length % w.window, min(self.length + 1, w.window)
        self.keys[layer, :, :, slot], self.values[layer, :, :, slot] = _rotate(keys, *table), values
        shared = _rotate(queries, *table).reshape(len(x), w.n_groups, -1, w.head_dim)
        scores = shared @ self.keys[layer, :, :, :seen].swapaxes(2, 3) / np.float32(np.sqrt(w.head_dim))
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = shares @ self.values[layer, :, :, :seen]
        return _times(mixed.reshape(len(x), -1), w.arrays[block + "mix.weight"])

    def _feed_forward(self, x: np.ndarray, name: str) -> np.ndarray:
        arrays = self.weights.arrays
        inner = np.maximum(_times(x, arrays[name + "expand.weight"]), 0)
        return _times(inner * inner, arrays[name + "reduce.weight"])


def _times(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(B, I) and (O, I) -> (B, O), row by row: BLAS sums the rows of a matrix in another order than single ones."""
    return (x[:, None] @ weight.T)[:, 0]


def _normalise(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(EPS)) * scale


def _rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotary positions of heads (B, H, D)."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
