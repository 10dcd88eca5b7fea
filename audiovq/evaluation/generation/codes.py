"""Codes that were drawn beside codes of real speech: how they are distributed, and what was copied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def divergence(first: np.ndarray, second: np.ndarray) -> float:
    """Jensen-Shannon divergence, in bits, of the empirical distributions of two arrays of integers: 0 to 1."""
    values, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    n = len(values)
    p = np.bincount(place[: len(first)], minlength=n) / len(first)
    q = np.bincount(place[len(first) :], minlength=n) / len(second)
    middle = (p + q) / 2

    def relative(x: np.ndarray) -> float:
        seen = x > 0
        return float(np.sum(x[seen] * np.log2(x[seen] / middle[seen])))

    return (relative(p) + relative(q)) / 2


def bigrams(tapes: Sequence[np.ndarray], book: int, radix: int) -> np.ndarray:
    """A book's pairs of codes of neighbouring frames, as single numbers; of codes (K, F) each."""
    return np.concatenate([t[book, :-1].astype(np.int64) * radix + t[book, 1:] for t in tapes])


def divergences(first: Sequence[np.ndarray], second: Sequence[np.ndarray], radix: int) -> dict[str, list[float]]:
    """Of single codes and of bigrams, book by book; two lists of codes (K, F)."""
    books = range(min(first[0].shape[0], second[0].shape[0]))
    unigram = [divergence(np.concatenate([t[k] for t in first]), np.concatenate([t[k] for t in second])) for k in books]
    bigram = [divergence(bigrams(first, k, radix), bigrams(second, k, radix)) for k in books]
    return {"unigram": unigram, "bigram": bigram}


def _hashes(symbols: np.ndarray, length: int) -> np.ndarray:
    """A number for each stretch of ``length`` symbols (F,) uint64: a polynomial modulo 2^64, by doubling."""
    base = np.uint64(0x9E3779B97F4A7C15)
    total = np.zeros(len(symbols) - length + 1, np.uint64)
    block, size, done, power = symbols.copy(), 1, 0, base
    # total = sum over the bits of length of hashes of 2^i symbols, each shifted behind what is there.
    with np.errstate(over="ignore"):
        while size <= length:
            if length & size:
                total = total * power + block[done : done + len(total)]
                done += size
            block = block[:-size] * power + block[size:] if len(block) > size else block[:0]
            power = power * power
            size *= 2
    return total


def longest_copy(samples: Sequence[np.ndarray], train: Sequence[np.ndarray], n_codebooks: int, radix: int) -> list[int]:
    """Frames of the longest stretch of each sample that occurs in the training codes, in the first books exactly.

    Args:
        samples, train: codes (K, F) each; a stretch lies within one of them.
        n_codebooks: books that must be equal.
        radix: more than any code.
    """
    salt = np.uint64(0xD6E8FEB86659FD93)

    def symbols(codes: np.ndarray) -> np.ndarray:
        row = np.zeros(codes.shape[1], np.uint64)
        with np.errstate(over="ignore"):
            for book in codes[:n_codebooks]:
                row = row * np.uint64(radix) + book.astype(np.uint64)
            # Mixed, so that neighbouring numbers do not make neighbouring sums.
            row = (row + np.uint64(1)) * salt
            return row ^ (row >> np.uint64(29))

    own, theirs = [symbols(x) for x in samples], [symbols(x) for x in train]
    low, high = np.zeros(len(own), np.int64), np.array([len(x) for x in own])
    # All samples search at once, one length at a time: each length's table of the training codes is made once.
    known: dict[int, np.ndarray] = {}
    while (low < high).any():
        middle = (low + high + 1) // 2
        for length in np.unique(middle[low < high]):
            if length not in known:
                rows = [_hashes(x, int(length)) for x in theirs if len(x) >= length]
                known[length] = np.unique(np.concatenate(rows)) if rows else np.zeros(0, np.uint64)
            for i in np.nonzero((middle == length) & (low < high))[0]:
                found = _any_in(_hashes(own[i], int(length)), known[length])
                low[i], high[i] = (length, high[i]) if found else (low[i], length - 1)
    return low.tolist()


def _any_in(values: np.ndarray, ordered: np.ndarray) -> bool:
    """Whether one of the values is in a sorted array; faster than `numpy.isin`, which sorts it again."""
    places = np.searchsorted(ordered, values)
    inside = places < len(ordered)
    return bool((ordered[places[inside]] == values[inside]).any())
