"""constriction's range coder, with strings of bytes that are no longer than they must be."""

from __future__ import annotations

from typing import Any

import numpy as np


def whole_categorical() -> Any:
    """constriction's categorical models, for weights that are whole numbers and sum to 2**24 less their number.

    It gives every symbol its weight and one, in units of 2**-24: the sums stay exact in float32 and are not rescaled.
    """
    from constriction import stream

    return stream.model.Categorical(perfect=False)


def seal(encoder: Any) -> bytes:
    """What a ``RangeEncoder`` holds, as the shortest string of bytes that decodes to it; zeros are read behind its end.

    The words are written most significant byte first, so that the string is a binary fraction. Every fraction in the
    encoder's last interval decodes to the same symbols; the library gives one in whole words, this the shortest one.
    """
    words = encoder.get_compressed()
    n_words, (low, width) = encoder.pos()
    # The state's 64 bits stand behind n_words words. It is known without its carries, the library's choice with them.
    n_bytes = 4 * n_words + 8
    chosen = int.from_bytes(words.astype(">u4").tobytes().ljust(n_bytes, b"\0"), "big")
    begin = chosen - ((chosen - low) & (1 << 64) - 1)
    for n_cut in range(8, -1, -1):
        value = -(-begin >> 8 * n_cut)  # rounded up to a string that ends so many bytes earlier
        if value << 8 * n_cut < begin + width:
            return value.to_bytes(n_bytes - n_cut, "big").rstrip(b"\0") or b"\0"
    raise AssertionError("an interval holds its own begin")


def to_words(data: bytes) -> np.ndarray:
    """Bytes as the words constriction reads, with zeros behind their end."""
    return np.frombuffer(data + bytes(-len(data) % 4 + 8), ">u4").astype(np.uint32)
