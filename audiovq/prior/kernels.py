"""Compiled inner loops of sampling: products with 8-bit weights, attention over a ring buffer, one whole frame.

A step of one sequence reads every weight once, so its time is that of reading the weights: they are 8-bit integers with
a float32 scale for each output, converted to float32 in registers and summed in float32. A batch reads them once for
several sequences. Every output is summed over its inputs in order, so that the codes of a sequence do not depend on the
batch.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from audiovq import kernels
from audiovq.prior import vectors
from audiovq.prior.vectors import LANES, PANEL, UNROLL, exponential, make_product

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
    for w in range(0, n, LANES):
        exponential(scores.ctypes.data, w)  # type: ignore[call-arg]
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
        length: steps before this one.
        cos, sin: (D / 2,) of this position.
        scores: (H / G, panels * PANEL), workspace.
        out: (B, H D).
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
    """Sample a code by inverse transform: the code at ``uniform`` of the cumulative distribution.

    Args:
        logits: (V,) float32.
        uniform: in [0, 1).
        temperature, top_k, top_p: see `audiovq.prior.networks.SamplingConfig`.
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
    for i in range(0, n, LANES):
        exponential(weights.ctypes.data, i)  # type: ignore[call-arg]
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
