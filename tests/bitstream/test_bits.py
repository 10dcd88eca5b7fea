from __future__ import annotations

import numpy as np
import pytest

from audiovq.bitstream.entropy import decode_varint, encode_varint, from_bytes, pack_bits, to_bytes, unpack_bits


def test_varints_round_trip_and_have_one_spelling():
    rng = np.random.default_rng(0)
    values = [0, 1, 127, 128, 2**63 - 1, *(int(rng.integers(0, 2 ** int(bits))) for bits in rng.integers(1, 63, 500))]
    for value in values:
        data = encode_varint(value)
        assert decode_varint(b"xx" + data + b"yy", 2) == (value, 2 + len(data))
        assert decode_varint(data[:-1]) is None
    with pytest.raises(ValueError, match="longer than needed"):
        decode_varint(b"\x80\x00")
    with pytest.raises(ValueError, match="too long"):
        decode_varint(b"\x80" * 9 + b"\x01")
    for value in (-1, 2**63):
        with pytest.raises(ValueError, match="does not fit"):
            encode_varint(value)


def test_bits_round_trip():
    rng = np.random.default_rng(1)
    for bits in range(1, 17):
        values = rng.integers(0, 1 << bits, int(rng.integers(1, 60)))
        data = to_bytes(pack_bits(values, bits))
        assert len(data) == -(-len(values) * bits // 8)
        assert np.array_equal(unpack_bits(from_bytes(data)[: len(values) * bits], bits), values)


def test_bits_are_most_significant_first():
    assert to_bytes(pack_bits(np.array([0b1100000001, 1]), 10)) == bytes([0b11000000, 0b01000000, 0b00010000])


def test_values_that_do_not_fit_are_refused():
    for value in (-1, 1024):
        with pytest.raises(ValueError, match="do not fit"):
            pack_bits(np.array([value]), 10)
