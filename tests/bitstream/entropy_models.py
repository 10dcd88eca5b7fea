"""Entropy models of random integers, and codecs that have one: what they predict does not matter to a coder."""

from __future__ import annotations

from typing import Any

import numpy as np

from audiovq.bitstream.entropy import EntropyCoder
from audiovq.bitstream.entropy_kernels import PRECISION, Network, distributions, make_memory
from audiovq.bitstream.entropy_model import EntropyModel
from tests.fake_codec import FakeCodec


class SmallCodec(FakeCodec):
    """Three books of 16 codes."""

    n_codebooks, codebook_size, default_n_codebooks = 3, 16, 3
    bitrates = (0.2, 0.4, 0.6)


def random_model(
    codec: FakeCodec,
    seed: int = 0,
    width: int = 8,
    hidden: int = 12,
    dim: int = 6,
    offsets: tuple[int, ...] = (-1, 0, 1),
) -> EntropyModel:
    rng = np.random.default_rng(seed)
    books, values = codec.n_codebooks, codec.codebook_size

    def weights(*shape):
        return rng.integers(-127, 128, shape, dtype=np.int8)

    def numbers(low, high, *shape):
        return rng.integers(low, high, shape, dtype=np.int64)

    shares = rng.integers(0, 1000, (32, 16)) ** 2
    speaker = shares * ((1 << PRECISION) - 16) // shares.sum(axis=1, keepdims=True)
    speaker[:, 0] += (1 << PRECISION) - 16 - speaker.sum(axis=1)
    exponential = np.round(2.0 ** (20 - np.arange(1410) / 64)).astype(np.int64)
    network = Network(
        embedding=weights(books, values, dim),
        first_delays=np.array([1, 2, 3]),
        first_weight=weights(3, dim, width),
        first_multiplier=numbers(1 << 17, 1 << 18, width),
        condition=numbers(-200, 200, books, width),
        voicing_offsets=np.array(offsets, np.int64),
        voicing_weight=weights(len(offsets), width),
        voicing_multiplier=numbers(1 << 24, 1 << 25, width),
        delays=np.array([[0, 3], [0, 6]]),
        weight=weights(2, 2, width, width),
        multiplier=numbers(1 << 14, 1 << 15, 2, width),
        bias=numbers(-200, 200, 2, width),
        state_weight=weights(books, width, hidden),
        state_multiplier=numbers(1 << 14, 1 << 15, books, hidden),
        sum_weight=weights(books - 1, dim, hidden),
        sum_multiplier=numbers(1 << 17, 1 << 18, books - 1, hidden),
        previous=weights(books - 1, values, hidden),
        previous_multiplier=numbers(1 << 24, 1 << 25, books - 1, hidden),
        hidden_bias=numbers(-100, 100, books, hidden),
        output_weight=weights(books, hidden, values),
        output_multiplier=numbers(1 << 15, 1 << 16, books, values),
        output_bias=numbers(-100, 100, books, values),
        exponential=exponential[: np.argmin(exponential > 0) + 1],
    )
    return EntropyModel(codec.model_hash, network, speaker)


def coder_of(codec: FakeCodec, seed: int = 0, **sizes: Any) -> EntropyCoder:
    return EntropyCoder(random_model(codec, seed, **sizes))


def with_entropy(codec: FakeCodec, folder, seed: int = 0) -> FakeCodec:
    """The codec with an entropy model in its folder."""
    random_model(codec, seed).save(folder)
    codec.folder = folder
    return codec


def chosen_codes(
    coder: EntropyCoder, n_books: int, n_frames: int, likely: bool, voiced: np.ndarray | None = None
) -> np.ndarray:
    """Codes (K, F) that the model finds likely, each one at random among its best, or always the least likely ones."""
    network, rng = coder.model.network, np.random.default_rng(5)
    codes = np.zeros((n_books, n_frames), np.int64)
    weights = np.zeros((codes.size, coder.model.codebook_size), np.float32)
    voicing = np.ones(n_frames, np.uint8) if voiced is None else voiced
    for t in range(n_frames):
        for book in range(n_books):
            distributions(network, make_memory(network, n_frames), voicing, codes, weights)
            order = np.argsort(weights[t * n_books + book])
            codes[book, t] = order[-1 - rng.integers(3)] if likely else order[0]
    return codes
