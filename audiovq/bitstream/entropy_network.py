"""The integer network that predicts codes, for rows of codes that are known: what a writer needs (NumPy alone).

docs/format.md ("Entropy coding") defines every operation; `audiovq.bitstream.entropy_kernels` has the same frame by
frame, for readers, which know a code only when they have read it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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
