"""The WaveNet's recurrence, one sample after the other, compiled by numba.

Streams of a batch advance in step, so that each matrix is read once for all of them. Per step and layer::

    pre = past taps (x of `dilation` steps ago, from a ring)      y = [ x | sum of skips ], a row per stream
    z   = pre + condition + W_now x
    h   = tanh(z[:C]) * sigmoid(z[C:])
    y   = y + bias + W_out h

The past taps of a layer whose dilation is a multiple of `BLOCK` depend on nothing newer than `BLOCK` steps: they are
computed for `BLOCK` steps at a time, which reads their weights once instead of `BLOCK` times.

Compiled code is kept on disk (see `audiovq.kernels.cache_folder`), in a folder named after the sources: it is never
older than they.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
from numba import njit

from audiovq import kernels
from audiovq.kernels import vectors
from audiovq.kernels.vectors import (
    TILE,
    add_scaled,
    address,
    copy,
    exp_below,
    gate,
    rectify,
    tile_1x1,
    tile_1x2,
    tile_4x1,
)

BLOCK = 8
CATEGORICAL, LOGISTICS = 0, 1
DILATION, RING, PAST, NOW, OUT, BIAS, BLOCKS = range(7)  # columns of `Network.layers`


class Network(NamedTuple):
    """A network laid out for the kernel. Sizes ending in ``_width`` are padded: floats from one row to the next."""

    weights: np.ndarray  # flat float32: panels of all matrices in the order of use
    biases: np.ndarray  # flat float32
    layers: np.ndarray  # (L, 7) int64, see DILATION etc.; places in weights in bytes, of biases in numbers
    n_taps: int
    input_weight: np.ndarray  # (2 * n_values, x_width) float32: of the values, of these companded
    input_bias: np.ndarray  # (x_width,)
    x_width: int
    y_width: int
    z_width: int
    skip_width: int
    hidden_width: int
    logits_width: int
    head: np.ndarray  # (4,) int64: places of weight, bias, weight, bias
    n_values: int  # sampled at each step
    n_outputs: int  # for each value its parameters, then for each its coefficients, then those of pairs
    n_parameters: int  # of the distribution of one value
    kind: int  # CATEGORICAL, or LOGISTICS, which a linear prediction moves
    levels: np.ndarray  # float32: the value of every class; one entry, the distance of two levels, with LOGISTICS
    low_scale: float  # least logarithm of the scale of a logistic
    condition_width: int  # of a projected condition: (L, z_width) of the gates, then logarithms of n_values units


class State(NamedTuple):
    """Past inputs and values of a batch of streams, and memory for the computation of a step."""

    rings: np.ndarray  # inputs of every layer in the past, rows of (B, x_width)
    pre: np.ndarray  # the past taps' part of z, (L, BLOCK, B, z_width)
    past: np.ndarray  # (B, max(taps, 1), n_values) the last values, latest first
    clock: np.ndarray  # (1,) int64: steps so far
    y: np.ndarray  # this and the following: (B, width)
    z: np.ndarray
    h: np.ndarray
    skip: np.ndarray
    hidden: np.ndarray
    logits: np.ndarray
    zeros: np.ndarray
    probabilities: np.ndarray


class Places(NamedTuple):
    """Addresses of the arrays and their sizes: plain numbers, which cost nothing to hand on."""

    weights: int
    biases: int
    rings: int
    pre: int
    y: int
    z: int
    h: int
    zeros: int
    condition: int
    batch: int
    n_layers: int
    n_taps: int
    x_width: int
    y_width: int
    z_width: int
    condition_width: int
    none: int  # 0: with a literal 0, numba would compile a further `matmul`


SOURCES = (__file__, str(vectors.__file__))
cache_folder = partial(kernels.cache_folder, SOURCES)
compiled = partial(kernels.compiled, SOURCES, error_model="numpy")
inlined = njit(error_model="numpy", forceinline=True)


@njit(error_model="numpy")
def matmul(out, os, a, as_, b, bs, w, x, xs, k, n, rows):
    """out = a + b + x @ w for ``rows`` rows of k inputs and n outputs, a multiple of TILE.

    Addresses, each with the floats from one row to the next (see `vectors`).
    """
    columns, start = 4 * TILE, 0
    while start < n:
        tiles = min((n - start) // TILE, 2)
        ws = tiles * TILE
        if rows == 1 and tiles == 2:
            tile_1x2(out, os, a, as_, b, bs, w, ws, x, xs, k)
        else:
            for i in range(tiles):
                o, c, d, v = out + i * columns, a + i * columns, b + i * columns, w + i * columns
                for r in range(0, rows - 3, 4):
                    at = 4 * r
                    tile_4x1(o + at * os, os, c + at * as_, as_, d + at * bs, bs, v, ws, x + at * xs, xs, k)
                for r in range(rows // 4 * 4, rows):
                    at = 4 * r
                    tile_1x1(o + at * os, os, c + at * as_, as_, d + at * bs, bs, v, ws, x + at * xs, xs, k)
        out, a, b, w = out + tiles * columns, a + tiles * columns, b + tiles * columns, w + 4 * ws * k
        start += ws


@inlined
def past_taps(p, row, layer, clock):
    """Fill ``pre`` of one layer for this step, or for this and the next ``BLOCK - 1``."""
    slot = clock % BLOCK
    if row[BLOCKS] and slot:
        return
    rows = p.batch * BLOCK if row[BLOCKS] else p.batch
    k, n = p.x_width, p.z_width
    out = p.pre + 4 * (layer * BLOCK + slot) * p.batch * n
    length = (p.n_taps - 1) * row[DILATION]
    for tap in range(1, p.n_taps):
        x = p.rings + 4 * (row[RING] + (clock - tap * row[DILATION]) % length) * p.batch * k
        w = p.weights + row[PAST] + 4 * (tap - 1) * k * n
        first, step = (p.zeros, p.none) if tap == 1 else (out, n)
        matmul(out, n, first, step, p.zeros, p.none, w, x, k, k, n, rows)


@inlined
def layer_step(p, row, layer, clock, frame):
    """Advance x and the sum of skips in ``y`` through one layer."""
    past_taps(p, row, layer, clock)
    k, n, batch = p.x_width, p.z_width, p.batch
    ring = p.rings + 4 * (row[RING] + clock % ((p.n_taps - 1) * row[DILATION])) * batch * k
    for b in range(batch):
        copy(ring + 4 * b * k, p.y + 4 * b * p.y_width, k)
    step = p.condition_width
    condition = p.condition + 4 * (frame * batch * step + layer * n)
    pre = p.pre + 4 * (layer * BLOCK + clock % BLOCK) * batch * n
    matmul(p.z, n, pre, n, condition, step, p.weights + row[NOW], p.y, p.y_width, k, n, batch)
    for b in range(batch):
        gate(p.h + 4 * b * k, p.z + 4 * b * n, k)
    n = p.y_width
    matmul(p.y, n, p.y, n, p.biases + 4 * row[BIAS], p.none, p.weights + row[OUT], p.h, k, k, n, batch)


@inlined
def compand(value):
    """mu-law of 8 bits, see `audiovq.nn.distributions.compand`."""
    return np.float32(math.copysign(math.log1p(255.0 * abs(value)) / math.log(256.0), value))


@inlined
def input_layer(p, net, state, extra, t):
    """``y`` from the last values, the same companded, and what is extra; the sum of skips starts at 0."""
    k, width, weight = p.x_width, p.y_width, address(net.input_weight)
    for b in range(p.batch):
        y = p.y + 4 * b * width
        copy(y, address(net.input_bias), k)
        copy(y + 4 * k, p.zeros, width - k)
        for i in range(net.n_values):
            value = state.past[b, 0, i]
            add_scaled(y, weight + 4 * i * k, k, value)
            add_scaled(y, weight + 4 * (net.n_values + i) * k, k, compand(value))
        if len(extra):
            add_scaled(y, address(extra) + 4 * (t * p.batch + b) * k, k, np.float32(1))


@inlined
def head(p, net, state):
    """``logits`` from the sum of skips: rectifier, 1x1, rectifier, 1x1."""
    skip, hidden, logits = address(state.skip), address(state.hidden), address(state.logits)
    k, n, m = net.skip_width, net.hidden_width, net.logits_width
    for b in range(p.batch):
        rectify(skip + 4 * b * k, p.y + 4 * (b * p.y_width + p.x_width), k)
    w, bias = p.weights + net.head[0], p.biases + 4 * net.head[1]
    matmul(hidden, n, bias, p.none, p.zeros, p.none, w, skip, k, k, n, p.batch)
    rectify(hidden, hidden, p.batch * n)
    w, bias = p.weights + net.head[2], p.biases + 4 * net.head[3]
    matmul(logits, m, bias, p.none, p.zeros, p.none, w, hidden, n, n, m, p.batch)


# Slices, reductions and searches are written out below: each of numpy's costs a second when the kernel is compiled.


@inlined
def highest(logits, at, n):
    top = logits[at]
    for i in range(at + 1, at + n):
        top = max(top, logits[i])
    return top


@inlined
def sample_class(net, state, at, uniform, sharpness):
    """Value of the first class whose cumulative probability exceeds ``uniform``."""
    p, n = state.probabilities, net.n_parameters
    exp_below(address(p), address(state.logits) + 4 * at, n, highest(state.logits, at, n), sharpness)
    total = np.float32(0)
    for i in range(n):
        total += p[i]
        p[i] = total
    goal, low, high = uniform * total, 0, n - 1
    while low < high:  # the first class whose sum exceeds the goal, or the last
        middle = (low + high) // 2
        if p[middle] > goal:
            high = middle
        else:
            low = middle + 1
    return net.levels[low]


@inlined
def sample_logistics(net, logits, at, noise, temperature, shift, unit):
    """Choose a component by the first random number, then invert its distribution at the second; on the grid.

    ``unit`` is the logarithm of the mixture's unit.
    """
    choice, uniform = noise[0], noise[1]
    n = net.n_parameters // 3
    top = highest(logits, at, n)
    total = 0.0
    for i in range(n):
        total += math.exp(logits[at + i] - top)
    goal, seen, chosen = choice * total, 0.0, 0
    for i in range(n):
        seen += math.exp(logits[at + i] - top)
        chosen = i
        if seen > goal:
            break
    scale = temperature * math.exp(max(logits[at + 2 * n + chosen] + unit, net.low_scale))
    value = logits[at + n + chosen] * math.exp(unit) + shift + scale * (math.log(uniform) - math.log1p(-uniform))
    grid = net.levels[0]
    return np.float32(math.floor((min(max(value, -1.0), 1.0) + 1.0) / grid + 0.5) * grid - 1.0)


@inlined
def sample_step(net, state, b, noise, units, values, given, temperature):
    """Sample the values of one step of stream ``b`` one after the other, unless they are ``given``; update the past."""
    past, n, size, logits = state.past, net.n_values, net.n_parameters, state.logits
    first, taps = b * net.logits_width, past.shape[1]
    for i in range(n):
        if given:
            continue
        at = first + i * size
        if net.kind == CATEGORICAL:
            values[b, i] = sample_class(net, state, at, noise[b, i, 0], np.float32(1.0 / temperature[i]))
            continue
        shift, coefficients = 0.0, first + n * (size + i * taps)
        for k in range(taps):
            for j in range(n):
                shift += logits[coefficients + k * n + j] * past[b, k, j]
        pairs = first + n * (size + n * taps) + i * (i - 1) // 2
        for j in range(i):
            shift += logits[pairs + j] * values[b, j]
        values[b, i] = sample_logistics(net, logits, at, noise[b, i], temperature[i], shift, units[b, i])
    for i in range(n):
        for k in range(past.shape[1] - 1, 0, -1):
            past[b, k, i] = past[b, k - 1, i]
        past[b, 0, i] = values[b, i]


@compiled
def run(net, state, condition, hold, noise, n_given, temperature, values, outputs, extra):
    """Advance all streams by ``len(values)`` steps.

    Args:
        condition: (F, B, condition_width) float32: projected into the gates, biases included, and units.
        hold: steps that each of the F frames lasts.
        noise: (T, B, n_values, n_uniform) float32 between 0 and 1, both excluded.
        temperature: (n_values,) float64: divides logits, multiplies scales.
        values: (T, B, n_values) float32: written, but for the first ``n_given`` steps, whose values it has.
        outputs, extra: of the network, (T, B, n_outputs) float32, written; added to the first layer's input, (T, B,
            x_width) float32; (0, ...) leaves either out.
    """
    p = Places(
        address(net.weights), address(net.biases), address(state.rings), address(state.pre), address(state.y),
        address(state.z), address(state.h), address(state.zeros), address(condition), values.shape[1],
        len(net.layers), net.n_taps, net.x_width, net.y_width, net.z_width, net.condition_width, 0,
    )  # fmt: skip
    layers, units = net.layers, condition[:, :, len(net.layers) * net.z_width :]
    for t in range(len(values)):
        clock = state.clock[0]
        input_layer(p, net, state, extra, t)
        for i in range(p.n_layers):
            row = (layers[i, 0], layers[i, 1], layers[i, 2], layers[i, 3], layers[i, 4], layers[i, 5], layers[i, 6])
            layer_step(p, row, i, clock, t // hold)
        head(p, net, state)
        for b in range(p.batch):
            sample_step(net, state, b, noise[t], units[t // hold], values[t], t < n_given, temperature)
            if len(outputs):
                for i in range(net.n_outputs):
                    outputs[t, b, i] = state.logits[b * net.logits_width + i]
        state.clock[0] = clock + 1
