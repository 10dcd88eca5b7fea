"""The range decoder, and the integer network that it asks for each code, compiled by numba.

docs/format.md ("Entropy coding") defines every operation. All of them are on integers, none can overflow within the
limits that `audiovq.bitstream.entropy_model` checks, and encoder and decoder call the same functions with the same
numbers: there is nothing in which two machines, numbers of threads or batches could differ.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from audiovq import kernels
from audiovq.bitstream.entropy_model import HALF, MAX_ACTIVATION, MAX_STATE, PRECISION, SHIFT, Network

compiled = partial(kernels.compiled, (__file__,))

WORD = 32


class Memory(NamedTuple):
    """Intermediate values of one row of codes, `make_memory`."""

    sums: np.ndarray  # (F, D) int32: what the codes of a frame stand for
    states: np.ndarray  # (L + 1, F, H) int32
    products: np.ndarray  # (3, max(H, U, V)) int32
    hidden: np.ndarray  # (U,) int32
    logits: np.ndarray  # (V,) int64
    bounds: np.ndarray  # (V,) int64


def make_memory(network: Network, n_frames: int) -> Memory:
    """Memory for rows of ``n_frames`` frames."""
    n_layers, _, width, _ = network.weight.shape
    _, n_hidden, n_values = network.output_weight.shape
    return Memory(
        np.zeros((n_frames, network.embedding.shape[2]), np.int32),
        np.zeros((n_layers + 1, n_frames, width), np.int32),
        np.zeros((3, max(width, n_hidden, n_values)), np.int32),
        np.zeros(n_hidden, np.int32),
        np.zeros(n_values, np.int64),
        np.zeros(n_values, np.int64),
    )


@compiled
def _add_row(out, value, row):
    for i in range(len(out)):
        out[i] = np.int32(out[i] + np.int32(np.int32(row[i]) * value))


@compiled
def _add_product(out, x, weight):
    """out += x @ weight. Inputs that are zero, half of them after a rectifier, cost nothing; the others go by fours."""
    a, b, c, n = 0, 0, 0, 0
    for j in range(len(x)):
        if x[j] == 0:
            continue
        if n == 3:
            xa, xb, xc, xd = np.int32(x[a]), np.int32(x[b]), np.int32(x[c]), np.int32(x[j])
            wa, wb, wc, wd = weight[a], weight[b], weight[c], weight[j]
            for i in range(len(out)):
                first = np.int32(np.int32(np.int32(wa[i]) * xa) + np.int32(np.int32(wb[i]) * xb))
                second = np.int32(np.int32(np.int32(wc[i]) * xc) + np.int32(np.int32(wd[i]) * xd))
                out[i] = np.int32(out[i] + np.int32(first + second))
            n = 0
            continue
        if n == 0:
            a = j
        elif n == 1:
            b = j
        else:
            c = j
        n += 1
    for place in range(n):
        j = a if place == 0 else (b if place == 1 else c)
        _add_row(out, np.int32(x[j]), weight[j])


@compiled
def _step(network, memory, voiced, n_books, t):
    """The state of frame ``t`` from the frames before it and voicing (F,), to ``memory.states[-1, t]``."""
    width = network.condition.shape[1]
    acc, side = memory.products[0, :width], memory.products[1, :width]
    acc[:] = 0
    side[:] = 0
    for i in range(len(network.voicing_offsets)):
        place = t + network.voicing_offsets[i]
        if 0 <= place < len(voiced) and voiced[place]:
            for j in range(width):
                side[j] += network.voicing_weight[i, j]
    for i in range(len(network.first_delays)):
        if t >= network.first_delays[i]:
            _add_product(acc, memory.sums[t - network.first_delays[i]], network.first_weight[i])
    for i in range(width):
        value = acc[i] * network.first_multiplier[i] + side[i] * network.voicing_multiplier[i]
        value = ((value + HALF) >> SHIFT) + network.condition[n_books - 1, i]
        memory.states[0, t, i] = min(max(value, 0), MAX_ACTIVATION)
    for layer in range(len(network.weight)):
        acc[:] = 0
        for i in range(network.delays.shape[1]):
            if t >= network.delays[layer, i]:
                _add_product(acc, memory.states[layer, t - network.delays[layer, i]], network.weight[layer, i])
        for i in range(width):
            value = ((acc[i] * network.multiplier[layer, i] + HALF) >> SHIFT) + network.bias[layer, i]
            value = memory.states[layer, t, i] + min(max(value, 0), MAX_ACTIVATION)
            memory.states[layer + 1, t, i] = min(value, MAX_STATE)


@compiled
def _bound(network, memory, book, t, before):
    """Sums of the exponentials of the codes before each -> ``memory.bounds``, and the factor for them.

    ``bounds * factor >> 32`` are the cumulative weights; the last is 2**PRECISION - V. ``before`` is the code of the
    book before this one.
    """
    n_hidden, n_values = network.output_weight.shape[1:]
    state, partial = memory.products[0, :n_hidden], memory.products[1, :n_hidden]
    state[:] = 0
    _add_product(state, memory.states[-1, t], network.state_weight[book])
    partial[:] = 0
    if book > 0:
        _add_product(partial, memory.sums[t], network.sum_weight[book - 1])
    for i in range(n_hidden):
        value = state[i] * network.state_multiplier[book, i]
        if book > 0:
            value += partial[i] * network.sum_multiplier[book - 1, i]
            value += network.previous[book - 1, before, i] * network.previous_multiplier[book - 1, i]
        value = ((value + HALF) >> SHIFT) + network.hidden_bias[book, i]
        memory.hidden[i] = min(max(value, 0), MAX_ACTIVATION)
    acc = memory.products[2, :n_values]
    acc[:] = 0
    _add_product(acc, memory.hidden, network.output_weight[book])
    logits, bounds = memory.logits, memory.bounds
    for i in range(n_values):
        logits[i] = ((acc[i] * network.output_multiplier[book, i] + HALF) >> SHIFT) + network.output_bias[book, i]
    best = logits[0]
    for i in range(n_values):
        best = max(best, logits[i])
    last = len(network.exponential) - 1
    total = 0
    for i in range(n_values):
        bounds[i] = total
        total += network.exponential[min(best - logits[i], last)]
    return (((1 << PRECISION) - n_values) << 32) // total


@compiled
def _account(network, memory, book, t, code):
    for i in range(memory.sums.shape[1]):
        memory.sums[t, i] += network.embedding[book, code, i]


@compiled
def distributions(network, memory, voiced, codes, weights):
    """Weights of each code of a row ``codes (K, F)``, whole numbers, to ``weights (F * K, V)`` float32."""
    n_books, n_frames = codes.shape
    memory.sums[:] = 0
    bounds, n_values = memory.bounds, weights.shape[1]
    for t in range(n_frames):
        _step(network, memory, voiced, n_books, t)
        before = 0
        for book in range(n_books):
            factor = _bound(network, memory, book, t, before)
            row, below = weights[t * n_books + book], 0
            for i in range(n_values - 1):
                bound = (bounds[i + 1] * factor) >> 32
                row[i] = bound - below
                below = bound
            row[n_values - 1] = (1 << PRECISION) - n_values - below
            before = codes[book, t]
            _account(network, memory, book, t, before)


@compiled
def _next_word(data, position):
    """Four bytes as a number, most significant first; behind the end there are zeros."""
    word = np.uint64(0)
    for i in range(4):
        word = word << np.uint64(8)
        if position + i < len(data):
            word = word | np.uint64(data[position + i])
    return word


@compiled
def decode_rows(network, memory, voiced, data, codes):
    """Range-decode ``codes (R, K, F)``, given ``voiced (R, F)``, from bytes -> the number of bytes asked for.

    It is -1 where no code fits.

    The coder is that of constriction's ``RangeDecoder`` (64 bits of state, words of 32).
    """
    n_rows, n_books, n_frames = codes.shape
    bounds = memory.bounds
    n_values = len(bounds)
    word, precision, one = np.uint64(WORD), np.uint64(PRECISION), np.uint64(1)
    offset = _next_word(data, 0) << word | _next_word(data, 4)
    width = ~np.uint64(0)
    position = 8
    for r in range(n_rows):
        memory.sums[:] = 0
        for t in range(n_frames):
            _step(network, memory, voiced[r], n_books, t)
            before = 0
            for book in range(n_books):
                factor = _bound(network, memory, book, t, before)
                scale = width >> precision
                quantile = offset // scale
                if quantile >= one << precision:
                    return -1
                # The last code that begins at or before the quantile.
                low, high, place = 0, n_values, np.int64(quantile)
                begin, end = 0, 1 << PRECISION
                while high - low > 1:
                    middle = (low + high) >> 1
                    bound = ((bounds[middle] * factor) >> 32) + middle
                    if bound <= place:
                        low, begin = middle, bound
                    else:
                        high, end = middle, bound
                offset -= scale * np.uint64(begin)
                width = scale * np.uint64(end - begin)
                if width >> word == np.uint64(0):
                    offset = offset << word | _next_word(data, position)
                    width = width << word
                    position += 4
                codes[r, book, t] = low
                before = low
                _account(network, memory, book, t, low)
    return position
