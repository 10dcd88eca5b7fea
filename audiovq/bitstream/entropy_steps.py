"""Range-decoding codes in NumPy, one after another: what `audiovq.bitstream.entropy_kernels` does, without compiling.

It decodes some thirty seconds of speech in a second and starts at once: so files are read until there is enough to do
to load the kernels, and to their ends where numba is not installed.
"""

from __future__ import annotations

import numpy as np

from audiovq.bitstream.entropy_model import HALF, MAX_ACTIVATION, MAX_STATE, PRECISION, SHIFT, Network

_WORD = 32
_MASK = (1 << 64) - 1


class StepPredictor:
    """The integer network, asked for one code at a time. Products are in float64, which holds all sums exactly.

    Args:
        network: its weights.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.n_values = network.output_weight.shape[2]
        self._first, self._later, self._state, self._sum = (
            weight.astype(np.float64)
            for weight in (network.first_weight, network.weight, network.state_weight, network.sum_weight)
        )
        self._output: dict[int, np.ndarray] = {}
        self._places = np.arange(self.n_values)

    def begin(self, voiced: np.ndarray, n_books: int) -> None:
        """Start a row with ``n_books`` codebooks whose frames are voiced (F,) or not."""
        network, n_frames = self.network, len(voiced)
        n_layers, _, width, _ = network.weight.shape
        self.sums = np.zeros((n_frames, network.embedding.shape[2]))
        self.states = np.zeros((n_layers + 1, n_frames, width))
        side = np.zeros((n_frames, width), np.int64)
        known = np.flatnonzero(voiced)
        for offset, weight in zip(network.voicing_offsets.tolist(), network.voicing_weight, strict=True):
            places = known - offset
            side[places[(places >= 0) & (places < n_frames)]] += weight
        self._side = side * network.voicing_multiplier + HALF
        self._condition = network.condition[n_books - 1]

    def step(self, t: int) -> None:
        """Compute the state of frame ``t`` from the codes of the frames before it."""
        network = self.network
        taps = zip(network.first_delays.tolist(), self._first, strict=True)
        value = _integers(sum(self.sums[t - delay] @ weight for delay, weight in taps if t >= delay))
        value = ((value * network.first_multiplier + self._side[t]) >> SHIFT) + self._condition
        state = np.clip(value, 0, MAX_ACTIVATION)
        self.states[0, t] = state
        for layer, weights in enumerate(self._later):
            delays = network.delays[layer].tolist()
            taps = zip(delays, weights, strict=True)
            value = _integers(sum(self.states[layer, t - delay] @ weight for delay, weight in taps if t >= delay))
            value = ((value * network.multiplier[layer] + HALF) >> SHIFT) + network.bias[layer]
            state = np.minimum(state + np.clip(value, 0, MAX_ACTIVATION), MAX_STATE)
            self.states[layer + 1, t] = state

    def bounds(self, book: int, t: int, before: int) -> np.ndarray:
        """Where each code (V,) begins, in units of 2**-PRECISION, given the code of the book before this one."""
        network = self.network
        value = _integers(self.states[-1, t] @ self._state[book]) * network.state_multiplier[book]
        if book > 0:
            value += _integers(self.sums[t] @ self._sum[book - 1]) * network.sum_multiplier[book - 1]
            value += network.previous[book - 1, before] * network.previous_multiplier[book - 1]
        hidden = np.clip(((value + HALF) >> SHIFT) + network.hidden_bias[book], 0, MAX_ACTIVATION)
        if book not in self._output:
            self._output[book] = network.output_weight[book].astype(np.float64)
        value = _integers(hidden.astype(np.float64) @ self._output[book]) * network.output_multiplier[book]
        logits = ((value + HALF) >> SHIFT) + network.output_bias[book]
        exponents = np.minimum(logits.max() - logits, len(network.exponential) - 1)
        ends = network.exponential[exponents].cumsum()
        factor = (((1 << PRECISION) - self.n_values) << 32) // int(ends[-1])
        begins = np.zeros(self.n_values, np.int64)
        begins[1:] = (ends[:-1] * factor) >> 32
        return begins + self._places

    def account(self, book: int, t: int, code: int) -> None:
        """Take a code into account for those that follow."""
        self.sums[t] += self.network.embedding[book, code]


def _integers(value: np.ndarray | int) -> np.ndarray:
    return np.asarray(value).astype(np.int64)


def decode_rows(predictor: StepPredictor, voiced: np.ndarray, data: bytes, codes: np.ndarray) -> int:
    """As `audiovq.bitstream.entropy_kernels.decode_rows`: fill ``codes (R, K, F)`` -> the bytes asked for, or -1."""
    n_rows, n_books, n_frames = codes.shape
    padded = data + bytes(12)
    offset, width, position = int.from_bytes(padded[:8], "big"), _MASK, 8
    for row in range(n_rows):
        predictor.begin(voiced[row], n_books)
        for t in range(n_frames):
            predictor.step(t)
            before = 0
            for book in range(n_books):
                bounds = predictor.bounds(book, t, before)
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
                predictor.account(book, t, before)
    return position
