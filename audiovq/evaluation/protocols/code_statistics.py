"""Statistics of sequences of codes: divergences, copies of training data, and trigrams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import rel_entr

_EM_STEPS = 30


def divergence(first: np.ndarray, second: np.ndarray) -> float:
    """Jensen-Shannon divergence, in bits, of the empirical distributions of two arrays of integers: 0 to 1."""
    values, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    p, q = (np.bincount(part, minlength=len(values)) / len(part) for part in (place[: len(first)], place[len(first) :]))
    middle = (p + q) / 2
    return float((rel_entr(p, middle) + rel_entr(q, middle)).sum() / np.log(4))


def divergences(first: Sequence[np.ndarray], second: Sequence[np.ndarray], radix: int) -> dict[str, list[float]]:
    """Divergences of single codes and of pairs of neighbours, by codebook; two lists of codes (K, F).

    Args:
        first, second: the codes.
        radix: more than any code.
    """

    def bigrams(codes: np.ndarray) -> np.ndarray:
        return codes[:, :-1].astype(np.int64) * radix + codes[:, 1:]

    n = min(first[0].shape[0], second[0].shape[0])
    sides = [np.concatenate([c[:n] for c in codes], axis=1) for codes in (first, second)]
    pairs = [np.concatenate([bigrams(c[:n]) for c in codes], axis=1) for codes in (first, second)]
    return {
        name: [divergence(a[k], b[k]) for k in range(n)] for name, (a, b) in (("unigram", sides), ("bigram", pairs))
    }


def longest_copies(
    samples: Sequence[np.ndarray], train: Sequence[np.ndarray], n_codebooks: int, radix: int
) -> list[int]:
    """Frames of the longest run of each sample that occurs in the training codes, equal in the first codebooks.

    Args:
        samples, train: codes (K, F) each; a run is within one of them.
        n_codebooks: codebooks that must be equal.
        radix: more than any code.
    """
    own, theirs = ([_symbols(codes[:n_codebooks], radix) for codes in part] for part in (samples, train))
    low, high = np.zeros(len(own), np.int64), np.array([len(x) for x in own])
    # Bisection of all samples at once, one length at a time: a length's table of the training codes is made once.
    known: dict[int, np.ndarray] = {}
    while (low < high).any():
        middle = (low + high + 1) // 2
        for length in np.unique(middle[low < high]):
            if length not in known:
                rows = [_hashes(x, int(length)) for x in theirs if len(x) >= length]
                known[length] = np.unique(np.concatenate(rows)) if rows else np.zeros(0, np.uint64)
            for i in np.nonzero((middle == length) & (low < high))[0]:
                occurs = _any_in(_hashes(own[i], int(length)), known[length])
                low[i], high[i] = (length, high[i]) if occurs else (low[i], length - 1)
    return low.tolist()


def _symbols(codes: np.ndarray, radix: int) -> np.ndarray:
    """A number for each frame: (K, F) -> (F,) uint64, mixed so that sums of neighbours do not collide."""
    row = np.zeros(codes.shape[1], np.uint64)
    with np.errstate(over="ignore"):
        for codebook in codes:
            row = row * np.uint64(radix) + codebook.astype(np.uint64)
        row = (row + np.uint64(1)) * np.uint64(0xD6E8FEB86659FD93)
        return row ^ (row >> np.uint64(29))


def _hashes(symbols: np.ndarray, length: int) -> np.ndarray:
    """A number for each run of ``length`` symbols (F,) uint64: a polynomial modulo 2^64, by doubling."""
    base = np.uint64(0x9E3779B97F4A7C15)
    total = np.zeros(len(symbols) - length + 1, np.uint64)
    block, size, done, power = symbols.copy(), 1, 0, base
    # total = the sum, over the bits of length, of hashes of 2^i symbols, each shifted behind the ones before it.
    with np.errstate(over="ignore"):
        while size <= length:
            if length & size:
                total = total * power + block[done : done + len(total)]
                done += size
            block = block[:-size] * power + block[size:] if len(block) > size else block[:0]
            power = power * power
            size *= 2
    return total


def _any_in(values: np.ndarray, ordered: np.ndarray) -> bool:
    """Whether a sorted array has one of the values; faster than `numpy.isin`, which sorts it again."""
    places = np.searchsorted(ordered, values)
    inside = places < len(ordered)
    return bool((ordered[places[inside]] == values[inside]).any())


class Counts:
    """Occurrences of integers."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys, self.counts = np.unique(keys, return_counts=True)

    def __call__(self, keys: np.ndarray) -> np.ndarray:
        """(N,) -> (N,) float64, 0 for keys without an occurrence."""
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.counts[place], 0).astype(np.float64)


class Trigram:
    """``l3 p(c | a, b) + l2 p(c | a) + l1 p(c)``, weights by expectation-maximisation on other codes (Jelinek 1980).

    The context (a, b) of the first codebook is its two frames before; of another one the next coarser codebook of the
    same frame, then its own frame before.

    Args:
        train: (K, F) codes that are counted.
        held_out: codes that the weights are fitted to.
        codebook_size: V.
    """

    def __init__(self, train: Sequence[np.ndarray], held_out: Sequence[np.ndarray], codebook_size: int) -> None:
        self.size, self.radix = codebook_size, codebook_size + 1
        self._tables, self.weights = [], []
        for k in range(train[0].shape[0]):
            near, far, codes = self._rows(train, k)
            keys = (codes, near, self._key(near, codes), self._key(near, far), self._key(near, codes, far))
            self._tables.append((len(codes), [Counts(key) for key in keys]))
            probabilities = self._probabilities(held_out, k)
            weights = np.full(3, 1 / 3)
            for _ in range(_EM_STEPS):
                part = weights[:, None] * probabilities
                weights = (part / part.sum(0)).mean(1)
            self.weights.append(weights)

    def _rows(self, sequences: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, ...]:
        """a, b and c of every code of codebook ``k``, (N,) each."""
        rows = []
        for codes in (sequence.astype(np.int64) for sequence in sequences):
            before = np.concatenate([[self.size], codes[k, :-1]])
            earlier = np.concatenate([[self.size], before[:-1]])
            rows.append((codes[k - 1], before, codes[k]) if k else (before, earlier, codes[0]))
        return tuple(np.concatenate(part) for part in zip(*rows, strict=True))

    def _key(self, *digits: np.ndarray) -> np.ndarray:
        key = digits[0]
        for digit in digits[1:]:
            key = key * self.radix + digit
        return key

    def _probabilities(self, sequences: Sequence[np.ndarray], k: int) -> np.ndarray:
        """Probabilities of each code by the three models, (3, N); 0 by a model that has not seen the context."""
        near, far, codes = self._rows(sequences, k)
        total, (one, context, pair, contexts, triple) = self._tables[k]
        unigram = (one(codes) + 1) / (total + self.size)
        bigram = pair(self._key(near, codes)) / np.maximum(context(near), 1)
        trigram = triple(self._key(near, codes, far)) / np.maximum(contexts(self._key(near, far)), 1)
        return np.stack([unigram, bigram, trigram])

    def nats(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Mean nats per code of each codebook, (K,)."""
        return np.array(
            [float(-np.log(w @ self._probabilities(sequences, k)).mean()) for k, w in enumerate(self.weights)]
        )
