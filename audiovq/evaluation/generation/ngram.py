"""Interpolated trigrams of codes: what counting alone can tell of the next code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_ROUNDS = 30


class Counts:
    """How often rows of small integers were seen, by their number in mixed radix."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys, self.counts = np.unique(keys, return_counts=True)

    def __call__(self, keys: np.ndarray) -> np.ndarray:
        """(N,) -> (N,) float64, 0 for rows that were never seen."""
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.counts[place], 0).astype(np.float64)


def neighbours(codes: np.ndarray, book: int, absent: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two codes that tell most of a book's codes (K, F), and the codes themselves; (F,) each.

    Of the first book the two frames before; of another one the next coarser book of the same frame, then the book's own
    code of the frame before.
    """
    before = np.concatenate([[absent], codes[book, :-1]])
    if book == 0:
        return before, np.concatenate([[absent, absent], codes[0]])[: codes.shape[1]], codes[0]
    return codes[book - 1], before, codes[book]


class Trigram:
    """``l3 p(c | a, b) + l2 p(c | a) + l1 p(c)``, weights by expectation-maximisation on other codes (Jelinek 1980).

    Args:
        train: (K, F) codes of each tape that are counted.
        held_out: of each tape that the weights are fitted to.
        codebook_size: V.
    """

    def __init__(self, train: Sequence[np.ndarray], held_out: Sequence[np.ndarray], codebook_size: int) -> None:
        self.size, self.radix = codebook_size, codebook_size + 1
        self.n_books = train[0].shape[0]
        self._tables, self.weights = [], []
        for book in range(self.n_books):
            near, far, codes = self._rows(train, book)
            pairs, triples = self._key(near, codes), self._key(near, codes, far)
            tables = [Counts(codes), Counts(near), Counts(pairs), Counts(self._key(near, far)), Counts(triples)]
            self._tables.append((len(codes), tables))
            shares = self._shares(held_out, book)
            weights = np.full(3, 1 / 3)
            for _ in range(_ROUNDS):
                part = weights[:, None] * shares
                weights = (part / part.sum(0)).mean(1)
            self.weights.append(weights)

    def _rows(self, tapes: Sequence[np.ndarray], book: int) -> tuple[np.ndarray, ...]:
        rows = [neighbours(tape.astype(np.int64), book, self.size) for tape in tapes]
        return tuple(np.concatenate(part) for part in zip(*rows, strict=True))

    def _key(self, *digits: np.ndarray) -> np.ndarray:
        key = digits[0]
        for digit in digits[1:]:
            key = key * self.radix + digit
        return key

    def _shares(self, tapes: Sequence[np.ndarray], book: int) -> np.ndarray:
        """Probabilities of each code by the three models, (3, N); a model without a count says nothing: 0."""
        near, far, codes = self._rows(tapes, book)
        total, (one, context, pair, contexts, triple) = self._tables[book]
        unigram = (one(codes) + 1) / (total + self.size)
        bigram = pair(self._key(near, codes)) / np.maximum(context(near), 1)
        trigram = triple(self._key(near, codes, far)) / np.maximum(contexts(self._key(near, far)), 1)
        return np.stack([unigram, bigram, trigram])

    def nats(self, tapes: Sequence[np.ndarray]) -> np.ndarray:
        """Mean nats of a code of each book, (K,)."""
        means = []
        for book, weights in enumerate(self.weights):
            means.append(float(-np.log(weights @ self._shares(tapes, book)).mean()))
        return np.array(means)
