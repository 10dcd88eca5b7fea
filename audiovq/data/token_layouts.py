"""Codes of several books as one sequence, in the orders that language models of speech are fed with.

For K books of N codes and F frames, with the frame's number in front of the book's::

    interleaved   11 12 13 .. 1K  21 22 .. 2K  31 ..    (F * K,)      frame by frame, coarse to fine
    books         11 21 31 .. F1  12 22 .. F2  13 ..    (K * F,)      book by book: the coarse first
    delay         11 21 31 41 51                        (K, F + K - 1)  book k waits k frames
                   . 12 22 32 42                        (as in Copet et al. 2023, section 2.2)
                   .  . 13 23 33

In the one-dimensional layouts code c of book k becomes the token ``k * N + c``, so that a vocabulary of ``K * N`` tells
the books apart; in `delay` every row has its own vocabulary and the empty places are N.
"""

from __future__ import annotations

import numpy as np

from audiovq.errors import AudioVQError

LAYOUTS = ("codes", "interleaved", "books", "delay")


def vocabulary(layout: str, n_codebooks: int, codebook_size: int) -> int:
    """How many different tokens a layout has (of a row, where it has rows).

    Raises:
        AudioVQError: for a layout that is not known.
    """
    _check(layout)
    return {"codes": codebook_size, "delay": codebook_size + 1}.get(layout, n_codebooks * codebook_size)


def lay_out(codes: np.ndarray, layout: str, codebook_size: int) -> np.ndarray:
    """Codes (K, F) in a layout, int64. ``codes`` leaves them as they are.

    Raises:
        AudioVQError: for a layout that is not known.
    """
    _check(layout)
    codes = codes.astype(np.int64)
    n_books, n_frames = codes.shape
    if layout == "codes":
        return codes
    if layout == "delay":
        delayed = np.full((n_books, n_frames + n_books - 1), codebook_size)
        for k in range(n_books):
            delayed[k, k : k + n_frames] = codes[k]
        return delayed
    tokens = codes + np.arange(n_books)[:, None] * codebook_size
    return (tokens.T if layout == "interleaved" else tokens).reshape(-1)


def from_layout(tokens: np.ndarray, layout: str, codebook_size: int, n_codebooks: int) -> np.ndarray:
    """Codes (K, F) int64 of what `lay_out` gave, or of what a model made in that layout.

    Raises:
        AudioVQError: for tokens that are not in that layout.
    """
    _check(layout)
    tokens = np.asarray(tokens, np.int64)
    if layout == "codes":
        codes = tokens
    elif layout == "delay":
        n_frames = tokens.shape[1] - n_codebooks + 1
        codes = np.stack([tokens[k, k : k + n_frames] for k in range(n_codebooks)])
    else:
        if tokens.ndim != 1 or len(tokens) % n_codebooks:
            raise AudioVQError(f"{tokens.shape} tokens are not whole frames of {n_codebooks} codebooks")
        rows = tokens.reshape(-1, n_codebooks).T if layout == "interleaved" else tokens.reshape(n_codebooks, -1)
        codes = rows - np.arange(n_codebooks)[:, None] * codebook_size
    if len(codes) != n_codebooks or (codes < 0).any() or (codes >= codebook_size).any():
        raise AudioVQError(f"these tokens are not codes in layout {layout!r}: a book's token stands in another's place")
    return codes


def _check(layout: str) -> None:
    if layout not in LAYOUTS:
        raise AudioVQError(f"no layout {layout!r}: there are {', '.join(LAYOUTS)}")
