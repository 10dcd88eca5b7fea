"""The search finds the nearest vector, and finds the same one whatever else it has to look for."""

import pytest
import torch

from audiovq.quantize.functional import BLOCK, blocks, lookup, nearest


@pytest.mark.parametrize(("size", "dim"), [(1, 3), (7, 5), (16, 2), (512, 64), (1000, 8)])
def test_agrees_with_distances_in_double_precision(size, dim):
    table, x = torch.randn(size, dim), torch.randn(3, dim, 211)
    distances = torch.cdist(x.double().movedim(1, 2), table.double())
    found = distances.gather(2, nearest(x, table)[..., None])[..., 0]
    torch.testing.assert_close(found, distances.amin(2), rtol=1e-5, atol=1e-5)


def test_lowest_index_wins_a_tie():
    table = torch.randn(40, 4).repeat(2, 1)
    assert nearest(torch.randn(2, 4, 300), table).max() < 40


@pytest.mark.parametrize(("size", "dim"), [(512, 64), (1024, 8), (1024, 128), (100, 33)])
def test_codes_do_not_depend_on_the_batch(size, dim):
    # A grid makes many near ties, which the last bit of a product would decide.
    table = torch.randint(-2, 3, (size, dim)) / 3.0
    x = torch.randint(-2, 3, (5, dim, 700)) / 3.0 + 1e-7 * torch.randn(5, dim, 700)
    whole = nearest(x, table)
    assert torch.equal(torch.cat([nearest(item[None], table) for item in x]), whole)
    for chunk in (1, 13, BLOCK, BLOCK + 1):
        assert torch.equal(torch.cat([nearest(part, table) for part in x[:2].split(chunk, 2)], 1), whole[:2])
    padded = torch.nn.functional.pad(x, (0, 77), value=9.0)
    assert torch.equal(nearest(padded, table)[..., :700], whole)
    assert torch.equal(nearest(x.movedim(1, 2).contiguous().movedim(1, 2), table), whole)


def test_sums_are_those_of_the_vectors_of_each_code():
    table, x = torch.randn(50, 6), torch.randn(4, 6, 333)
    sums = torch.zeros(6, 50)
    codes = nearest(x, table, sums)
    rows = x.movedim(1, 2).flatten(0, 1)
    expected = torch.stack([rows[codes.flatten() == code].sum(0) for code in range(50)])
    torch.testing.assert_close(sums.t(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "shape", [(1, 3, 5), (300, 3, 1), (7, 3, 100), (2, 3, BLOCK), (2, 3, 3 * BLOCK + 1), (4, 3, 0)]
)
def test_blocks_hold_every_vector_once(shape):
    x, buffer = torch.randn(shape), torch.full((3, BLOCK), torch.nan)
    pieces = []
    for start, stop in blocks(x, buffer):
        assert not buffer.isnan().any()
        assert not buffer[:, stop - start :].any()
        pieces.append(buffer[:, : stop - start].clone())
    joined = torch.cat(pieces, 1) if pieces else torch.zeros(3, 0)
    assert torch.equal(joined, x.movedim(1, 0).flatten(1))


@pytest.mark.parametrize("length", [1, 4, 50])
def test_lookup_gives_rows_and_zeros_for_no_code(length):
    table, codes = torch.randn(9, 4), torch.randint(-1, 9, (6, length))
    codes[0, 0] = -1
    extended = torch.cat([table, torch.zeros(1, 4)])
    assert torch.equal(lookup(codes, table), extended[codes].movedim(2, 1))
