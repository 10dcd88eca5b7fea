"""Codes chosen by distance and by what their bits cost."""

import pytest
import torch

from audiovq.quantize import EMACodebook, GradientCodebook, QuantizerError, ResidualVectorQuantizer, VectorQuantizer
from audiovq.quantize.functional import nearest


def entropy(codes: torch.Tensor, size: int) -> float:
    shares = torch.bincount(codes.flatten(), minlength=size) / codes.numel()
    return float(-torch.xlogy(shares, shares).sum() / torch.log(torch.tensor(2.0)))


def test_costs_are_added_to_squared_distances():
    x, table, costs = torch.randn(3, 5, 70), torch.randn(40, 5), 3 * torch.rand(40)
    distances = (x.movedim(1, 2)[:, :, None] - table).square().sum(-1)
    assert torch.equal(nearest(x, table, costs=costs), (distances + costs).argmin(-1))
    assert not torch.equal(nearest(x, table, costs=costs), nearest(x, table))


@pytest.mark.parametrize("kind", [EMACodebook, GradientCodebook])
def test_training_counts_bits_and_uses_them(kind):
    book, free = kind(16, 2, rate=0.5, restart_below=0), kind(16, 2, restart_below=0)
    free.load_state_dict({k: v for k, v in book.state_dict().items() if k != "bits"})
    x = torch.randn(4, 2, 200)
    for _ in range(100):
        codes, _ = book.learn(x)
        plain, _ = free.learn(x)
    # As learning begins with them, the bits are those of the counts before the last batch.
    shares = book.counts / book.counts.sum()
    used = shares > 0.01
    torch.testing.assert_close(book.bits[used], -shares[used].log2(), rtol=0.05, atol=0.05)
    assert entropy(codes, 16) < entropy(plain, 16) - 0.3


def test_bits_fitted_to_latents_trade_distance_for_entropy(clustered):
    free = ResidualVectorQuantizer(12, 3, 64)
    for _ in range(5):
        free(clustered(8, 12, 100, noise=0.5))
    free.eval()
    x = clustered(8, 12, 400, noise=0.5)
    found = []
    for rate in (0.0, 0.1, 0.4):
        quantizer = ResidualVectorQuantizer(12, 3, 64, rate=rate).eval()
        quantizer.load_state_dict(free.state_dict(), strict=False)
        quantizer.count_bits(x)
        codes = quantizer.encode(x)
        assert torch.equal(codes, quantizer(x).codes)
        assert torch.equal(codes[:, :2], quantizer.encode(x, 2)), "still coarse to fine"
        bits = sum(entropy(codes[:, level], 64) for level in range(3))
        distance = (quantizer.decode(codes) - x).square().sum(1).mean()
        found.append((bits, float(distance), codes))
    assert torch.equal(found[0][2], free.encode(x))
    assert found[0][0] > found[1][0] > found[2][0]
    assert found[0][1] < found[1][1] < found[2][1]
    # At a price, nothing better is to be had: the free choice costs more in all.
    assert found[2][1] + 0.4 * found[2][0] < found[0][1] + 0.4 * found[0][0]


def test_bits_are_part_of_the_state_and_only_where_they_cost():
    assert "codebook.bits" in VectorQuantizer(8, 32, rate=0.1).state_dict()
    assert "codebook.bits" not in VectorQuantizer(8, 32).state_dict()


def test_no_reward_for_bits():
    with pytest.raises(QuantizerError, match="rate"):
        VectorQuantizer(8, 32, rate=-1.0)
