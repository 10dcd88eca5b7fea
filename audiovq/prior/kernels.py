"""Compiled sampling on the CPU: products with 8-bit weights, attention over a ring buffer, one whole frame.

A step of one sequence reads every weight once, so its time is that of reading the weights: they are 8-bit integers with
a float32 scale for each output, converted to float32 in registers and summed in float32. A batch reads them once for
several sequences. Every output is summed over its inputs in order, so that the codes of a sequence do not depend on the
batch.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from audiovq import kernels
from audiovq.kernels import vectors
from audiovq.kernels.vectors import PANEL, UNROLL, exponential, make_product
from audiovq.prior.sampling import SamplingConfig
from audiovq.prior.weights import EPS, PriorWeights, restore_rows, rotary_row, round_rows

LANES = 16
"""Exponentials are computed for a multiple of so many values."""
_ALIGNMENT = 64

compiled = partial(kernels.compiled, (__file__, vectors.__file__))
_bytes_1, _bytes_2, _bytes_4 = (make_product(n, True) for n in (1, 2, 4))
_floats_1, _floats_2, _floats_4 = (make_product(n, False) for n in (1, 2, 4))


@compiled
def multiply(x, out, weights, scales, matrix):
    """x (B, >= n_in) -> out (B, >= n_out); ``matrix`` = (offset of weights, offset of scales, n_in, n_out)."""
    place, scale_place, n_in, n_out = matrix[0], matrix[1], matrix[2], matrix[3]
    n_rows, into, every = x.shape[0], out.shape[1], x.shape[1]
    for first in range(0, n_out, PANEL):
        panel = weights.ctypes.data + place + first * n_in
        scale = scales.ctypes.data + 4 * (scale_place + first)
        x_at, out_at, left = x.ctypes.data, out.ctypes.data + 4 * first, n_rows
        while left >= 4:
            _bytes_4(x_at, every, panel, n_in, out_at, into, scale)
            x_at, out_at, left = x_at + 16 * every, out_at + 16 * into, left - 4
        if left >= 2:
            _bytes_2(x_at, every, panel, n_in, out_at, into, scale)
            x_at, out_at, left = x_at + 8 * every, out_at + 8 * into, left - 2
        if left:
            _bytes_1(x_at, every, panel, n_in, out_at, into, scale)


@compiled
def multiply_panel(x_at, every, n_rows, panel, n_in, out_at, into):
    """Rows of floats times one panel of floats; addresses, and strides in values."""
    left = n_rows
    while left >= 4:
        _floats_4(x_at, every, panel, n_in, out_at, into, 0)
        x_at, out_at, left = x_at + 16 * every, out_at + 16 * into, left - 4
    if left >= 2:
        _floats_2(x_at, every, panel, n_in, out_at, into, 0)
        x_at, out_at, left = x_at + 8 * every, out_at + 8 * into, left - 2
    if left:
        _floats_1(x_at, every, panel, n_in, out_at, into, 0)


@compiled
def normalise(x, out, scale, eps):
    """Rows of x (B, C) divided by their root mean square, times scale (C,)."""
    for row in range(x.shape[0]):
        total = np.float32(0)
        for i in range(len(scale)):
            total += x[row, i] * x[row, i]
        inverse = np.float32(1) / np.sqrt(total / np.float32(len(scale)) + eps)
        for i in range(len(scale)):
            out[row, i] = x[row, i] * inverse * scale[i]


@compiled
def square_positive(x, n):
    for row in range(x.shape[0]):
        for i in range(n):
            value = max(x[row, i], np.float32(0))
            x[row, i] = value * value


@compiled
def add(x, y, n):
    for row in range(x.shape[0]):
        for i in range(n):
            x[row, i] += y[row, i]


@compiled
def turn(x, cos, sin):
    """Rotary positions of one head (D,), in place."""
    half = len(cos)
    for i in range(half):
        first, second = x[i], x[half + i]
        x[i] = first * cos[i] - second * sin[i]
        x[half + i] = first * sin[i] + second * cos[i]


@compiled
def soften(scores, n):
    """Softmax of the first ``n`` scores, in place (computed in whole vectors); the others become zero."""
    top = scores[0]
    for w in range(1, n):
        top = max(top, scores[w])
    for w in range(n):
        scores[w] -= top
    exponential(scores.ctypes.data, scores.ctypes.data, (n + LANES - 1) // LANES * LANES)  # type: ignore[call-arg]
    total = np.float32(0)
    for w in range(n):
        total += scores[w]
    for w in range(n):
        scores[w] /= total
    for w in range(n, len(scores)):
        scores[w] = 0


@compiled
def attend(heads, keys, values, length, window, cos, sin, scores, out, n_heads):
    """Attention of one layer for all sequences.

    Args:
        heads: (B, (H + 2 G) D) queries, keys and values of this step.
        keys: (B, G, panels, D, PANEL), a ring buffer of ``window`` steps, PANEL of them contiguous.
        values: (B, G, D / PANEL, panels * PANEL, PANEL), the same ring buffer with one step after the other.
        length: steps before this one, whose position has ``cos, sin (D / 2,)``.
        scores, out: (H / G, panels * PANEL), a workspace; (B, H D).
    """
    n_groups, dim, columns = keys.shape[1], keys.shape[3], values.shape[2]
    shared, place, seen = n_heads // n_groups, length % window, min(length + 1, window)
    scale = np.float32(1 / np.sqrt(dim))
    mixed = np.empty((shared, columns * PANEL), np.float32)
    for row in range(heads.shape[0]):
        for group in range(n_groups):
            start = (n_heads + group) * dim
            turn(heads[row, start : start + dim], cos, sin)
            for i in range(dim):
                keys[row, group, place // PANEL, i, place % PANEL] = heads[row, start + i]
                values[row, group, i // PANEL, place, i % PANEL] = heads[row, start + n_groups * dim + i]
            first = group * shared
            for head in range(first, first + shared):
                query = heads[row, head * dim : (head + 1) * dim]
                turn(query, cos, sin)
                for i in range(dim):
                    query[i] *= scale
            queries_at = heads[row, first * dim :].ctypes.data
            for panel in range((seen + PANEL - 1) // PANEL):
                keys_at = keys[row, group, panel].ctypes.data
                scores_at = scores.ctypes.data + 4 * panel * PANEL
                multiply_panel(queries_at, dim, shared, keys_at, dim, scores_at, scores.shape[1])
            for head in range(shared):
                soften(scores[head], seen)
            n_in = (seen + UNROLL - 1) // UNROLL * UNROLL
            for column in range(columns):
                values_at, mixed_at = values[row, group, column].ctypes.data, mixed.ctypes.data + 4 * column * PANEL
                multiply_panel(scores.ctypes.data, scores.shape[1], shared, values_at, n_in, mixed_at, mixed.shape[1])
            for head in range(shared):
                for i in range(dim):
                    out[row, (first + head) * dim + i] = mixed[head, i]


@compiled
def sample_code(logits: np.ndarray, uniform: float, temperature: float, top_k: int, top_p: float) -> int:
    """Sample a code by inverse transform: the code at ``uniform`` in [0, 1) of the distribution of logits (V,) float32.

    For the settings see `audiovq.prior.sampling.SamplingConfig`.
    """
    n = len(logits)
    best = 0
    for i in range(1, n):
        if logits[i] > logits[best]:
            best = i
    if temperature <= 0:
        return best
    weights = np.zeros((n + LANES - 1) // LANES * LANES, np.float32)
    inverse = np.float32(1 / temperature)
    for i in range(n):
        weights[i] = (logits[i] - logits[best]) * inverse
    exponential(weights.ctypes.data, weights.ctypes.data, len(weights))  # type: ignore[call-arg]
    least = np.float32(0)
    if 0 < top_k < n or top_p < 1:
        ordered = np.sort(weights[:n])
        if 0 < top_k < n:
            least = ordered[n - top_k]
        if top_p < 1:
            total = 0.0
            for i in range(n):
                if ordered[i] >= least:
                    total += ordered[i]
            reached, place = 0.0, n
            while place > 0 and reached < top_p * total:
                place -= 1
                reached += ordered[place]
            least = max(least, ordered[min(place, n - 1)])
    total = 0.0
    for i in range(n):
        if weights[i] >= least:
            total += weights[i]
    left = uniform * total
    last = best
    for i in range(n):
        if weights[i] >= least and weights[i] > 0:
            last = i
            left -= weights[i]
            if left < 0:
                return i
    return last


@compiled
def backbone_step(
    codes, offset, vectors, weights, scales, matrices, norms, keys, values, length, window, cos, sin, eps, x, a, b
):
    """The frame before (B, S) -> the backbone's output in ``a``; ``x``, ``a``, ``b`` are workspaces, one row each.

    Matrices are in the order of use: entry, then project, mix, expand and reduce of each layer.
    """
    n_rows, n_streams = codes.shape
    n_layers, n_groups, n_panels = keys.shape[0], keys.shape[2], keys.shape[3]
    width, dim = offset.shape[1], vectors.shape[2]
    n_heads = width // (2 * len(cos))
    scores = np.empty((n_heads // n_groups, n_panels * PANEL), np.float32)
    for row in range(n_rows):
        for k in range(n_streams):
            for i in range(dim):
                a[row, k * dim + i] = vectors[k, codes[row, k], i]
    multiply(a, x, weights, scales, matrices[0])
    add(x, offset, width)
    for layer in range(n_layers):
        first = 1 + 4 * layer
        normalise(x, a, norms[2 * layer, :width], eps)
        multiply(a, b, weights, scales, matrices[first])
        attend(b, keys[layer], values[layer], length, window, cos, sin, scores, a, n_heads)
        multiply(a, b, weights, scales, matrices[first + 1])
        add(x, b, width)
        normalise(x, a, norms[2 * layer + 1, :width], eps)
        multiply(a, b, weights, scales, matrices[first + 2])
        square_positive(b, matrices[first + 2, 3])
        multiply(b, a, weights, scales, matrices[first + 3])
        add(x, a, width)
    normalise(x, a, norms[2 * n_layers, :width], eps)


@compiled
def depth_step(hidden, sampled, uniforms, sizes, vectors, weights, scales, matrices, norms, eps, how, known, x, a, b):
    """The backbone's output (B, C) -> codes of the frame's first streams into ``sampled`` (B, S').

    Matrices: into and head of each stream, the S - 1 that add a code's vector, then expand and reduce of each layer.
    """
    n_rows, n_streams = sampled.shape
    total, depth_width, dim = vectors.shape[0], known.shape[1], vectors.shape[2]
    n_layers = norms.shape[0] - 1
    below, layers = 2 * total, 3 * total - 1
    known[:] = 0
    for k in range(n_streams):
        multiply(hidden, x, weights, scales, matrices[2 * k])
        add(x, known, depth_width)
        for layer in range(n_layers):
            normalise(x, a, norms[layer, :depth_width], eps)
            multiply(a, b, weights, scales, matrices[layers + 2 * layer])
            square_positive(b, matrices[layers + 2 * layer, 3])
            multiply(b, a, weights, scales, matrices[layers + 2 * layer + 1])
            add(x, a, depth_width)
        normalise(x, a, norms[n_layers, :depth_width], eps)
        multiply(a, b, weights, scales, matrices[2 * k + 1])
        for row in range(n_rows):
            logits = b[row, : sizes[k]]
            sampled[row, k] = sample_code(logits, uniforms[row, k], how[0], int(how[1]), how[2])
        if k + 1 < n_streams:
            for row in range(n_rows):
                for i in range(dim):
                    a[row, i] = vectors[k, sampled[row, k], i]
            multiply(a, b, weights, scales, matrices[below + k])
            add(known, b, depth_width)


# -- a prior for the kernels ------------------------------------------------------------------------------------------


class _Packer:
    """Collects matrices in one array of weights and one of scales."""

    def __init__(self) -> None:
        self.weights: list[np.ndarray] = []
        self.scales: list[np.ndarray] = []
        self.matrices: list[tuple[int, int, int, int]] = []
        self.n_weights = self.n_scales = self.widest = 0

    def add(self, weight: np.ndarray) -> None:
        """Append a matrix (O, I), padded with zeros to whole panels, as (panels, I, PANEL)."""
        rows, scale = round_rows(weight)
        n_out, n_in = -(-rows.shape[0] // PANEL) * PANEL, -(-rows.shape[1] // UNROLL) * UNROLL
        padded = np.zeros((n_out, n_in), np.int8)
        padded[: rows.shape[0], : rows.shape[1]] = rows
        scales = np.zeros(n_out, np.float32)
        scales[: len(scale)] = scale
        self.weights.append(padded.reshape(-1, PANEL, n_in).transpose(0, 2, 1).ravel())
        self.scales.append(scales)
        self.matrices.append((self.n_weights, self.n_scales, n_in, n_out))
        self.n_weights, self.n_scales = self.n_weights + padded.size, self.n_scales + n_out
        self.widest = max(self.widest, n_in, n_out)

    def packed(self) -> tuple[np.ndarray, np.ndarray]:
        """All weights, aligned, and all scales."""
        room = np.zeros(self.n_weights + _ALIGNMENT, np.int8)
        start = -room.ctypes.data % _ALIGNMENT
        weights = room[start : start + self.n_weights]
        weights[:] = np.concatenate(self.weights)
        return weights, np.concatenate(self.scales)


class PackedPrior:
    """The weights of a prior with a transformer, for `CompiledStepper`."""

    def __init__(self, prior: PriorWeights) -> None:
        self.prior = prior
        arrays, packer, norms = prior.arrays, _Packer(), []
        packer.add(arrays["entry.weight"])
        for i in range(prior.n_layers):
            block = f"backbone.blocks.{i}."
            for name in ("attention.project", "attention.mix", "feed_forward.expand", "feed_forward.reduce"):
                packer.add(arrays[f"{block}{name}.weight"])
            norms += [arrays[block + "attention_norm.scale"], arrays[block + "feed_forward_norm.scale"]]
        n_backbone = len(packer.matrices)
        into = arrays["depth.into.weight"].reshape(prior.n_streams, prior.depth_width, prior.width)
        for k, size in enumerate(prior.sizes):
            packer.add(into[k])
            packer.add(arrays["depth.heads"][k, :size])
        self.sizes = np.array(prior.sizes, np.int64)
        for matrix in arrays["depth.below"]:
            packer.add(matrix)
        for i in range(prior.n_depth_layers):
            packer.add(arrays[f"depth.layers.{i}.expand.weight"])
            packer.add(arrays[f"depth.layers.{i}.reduce.weight"])
        self.widest, self.eps = packer.widest, np.float32(EPS)
        matrices = np.array(packer.matrices, np.int64)
        shared = (restore_rows(*round_rows(arrays["embedding.vectors"])), *packer.packed())
        depth_norms = [arrays[f"depth.norms.{i}.scale"] for i in range(prior.n_depth_layers)]
        #: Vectors of codes, weights, scales, matrices and norms, as `backbone_step` and `depth_step` take them.
        self.backbone = (*shared, matrices[:n_backbone], np.stack([*norms, arrays["backbone.norm.scale"]]))
        self.depth = (*shared, matrices[n_backbone:], np.stack([*depth_norms, arrays["depth.norm.scale"]]))
        self.n_layers, self.n_groups = prior.n_layers, prior.n_groups
        self.window, self.head_dim = prior.window, prior.head_dim
        self.width, self.depth_width = prior.width, prior.depth_width


class CompiledStepper:
    """A batch of sequences that grow frame by frame: `audiovq.prior.networks.Stepper`, compiled and on one thread.

    ``offset`` (B, C) float32 is the conditions' vector that is added to every input.
    """

    def __init__(self, packed: PackedPrior, offset: np.ndarray, config: SamplingConfig, n_streams: int) -> None:
        self.packed, self.n_streams = packed, n_streams
        self.offset = np.ascontiguousarray(offset, np.float32)
        self.settings = np.array([config.temperature, config.top_k, config.top_p], np.float64)
        n = len(offset)
        ring = (packed.n_layers, n, packed.n_groups)
        panels, columns = -(-packed.window // PANEL), -(-packed.head_dim // PANEL)
        self.keys = np.zeros((*ring, panels, packed.head_dim, PANEL), np.float32)
        self.values = np.zeros((*ring, columns, panels * PANEL, PANEL), np.float32)
        self.rows, *self.workspaces = (np.zeros((n, packed.widest), np.float32) for _ in range(4))
        self.known = np.zeros((n, packed.depth_width), np.float32)
        self.length = 0

    def hidden(self, codes: np.ndarray) -> np.ndarray:
        """The frame before (B, S) -> the backbone's output (B, C) for the next frame; valid until the next call."""
        p = self.packed
        place = (self.keys, self.values, self.length, p.window, *rotary_row(self.length, p.head_dim))
        backbone_step(np.ascontiguousarray(codes), self.offset, *p.backbone, *place, p.eps, *self.workspaces)
        self.length += 1
        return self.workspaces[1][:, : p.width]

    def advance(self, codes: np.ndarray, uniforms: np.ndarray | None) -> np.ndarray | None:
        """See `Stepper.advance`."""
        hidden = self.hidden(codes)
        if uniforms is None:
            return None
        p = self.packed
        self.rows[:, : p.width] = hidden
        sampled = np.empty((len(codes), self.n_streams), np.int64)
        numbers = np.ascontiguousarray(uniforms)
        depth_step(self.rows, sampled, numbers, p.sizes, *p.depth, p.eps, self.settings, self.known, *self.workspaces)
        return sampled
