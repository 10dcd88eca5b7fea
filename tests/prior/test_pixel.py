"""PixelCNN: masks checked by gradient, no blind spot, cached sampling equals the full pass."""

from __future__ import annotations

import pytest
import torch

from audiovq.nn.convolutions import GatedLayer
from audiovq.prior.networks import SamplingConfig
from audiovq.prior.pixel import PixelPrior


def make(**changes) -> PixelPrior:
    torch.manual_seed(0)
    settings = {"n_codebooks": 2, "codebook_size": 7, "size": (6, 5), "channels": 8, "n_layers": 4, "n_heads": 2}
    prior = PixelPrior(**{**settings, **changes}).eval()
    for name, parameter in prior.named_parameters():
        if ".out." in name:  # nothing may hide behind branches that start at zero
            torch.nn.init.normal_(parameter, std=0.5)
    return prior


@pytest.mark.parametrize("attention_every", [0, 2])
def test_a_cell_sees_exactly_what_comes_before_it(attention_every):
    prior = make(attention_every=attention_every, n_layers=6).double()
    codes = torch.randint(7, (1, 2, 6, 5))
    embedded = prior.embed(codes).detach().requires_grad_(True)
    prior.embed = lambda _: embedded
    h = prior.features(codes, prior.condition(1))
    for y, x in ((0, 0), (0, 3), (2, 0), (3, 4), (5, 2)):
        (gradient,) = torch.autograd.grad(h[0, :, y, x].square().sum(), embedded, retain_graph=True, allow_unused=True)
        seen = gradient[0].abs().sum(0) > 0
        before = torch.zeros(6, 5, dtype=torch.bool)
        before[:y] = True
        before[y, :x] = True
        assert torch.equal(seen, before)


def test_later_books_of_a_place_see_the_earlier_ones_only():
    prior = make(n_codebooks=3)
    codes = torch.randint(7, (1, 3, 6, 5))
    logits = prior.logits(codes)
    for k in range(3):
        changed = codes.clone()
        changed[0, k, 2, 2] = (changed[0, k, 2, 2] + 1) % 7
        moved = (prior.logits(changed) != logits).any(2)[0]
        assert not bool(moved[: k + 1, 2, 2].any())
        assert bool(moved[k + 1 :, 2, 2].all())
        assert not bool(moved[:, :2].any() or moved[:, 2, :2].any())
        assert bool(moved[:, 2, 3].all())


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention_every": 2}, {"kernel": 5}, {"n_classes": 3}, {"context": (2, 4, 1)}, {"context_dim": 3}],
    ids=lambda c: next(iter(c), "plain"),
)
def test_cached_sampling_equals_the_full_pass(changes):
    """Each drawn code is the likeliest one of the full pass, at temperature 0."""
    prior = make(**changes)
    condition = {}
    if "n_classes" in changes:
        condition["label"] = torch.tensor([0, 1, -1])
    if "context" in changes:
        condition["coarser"] = torch.randint(4, (3, 2, 6, 5))
    if "context_dim" in changes:
        condition["vectors"] = torch.randn(3, 3)
    drawn = prior.sample(3, SamplingConfig(temperature=0), **condition)
    assert torch.equal(prior.logits(drawn, **condition).argmax(2), drawn)
    if condition:  # and the condition counts
        same = drawn[:1].expand(3, -1, -1, -1)
        told = prior.logits(same, **condition)
        assert not torch.equal(told[0], told[1])


def test_draws_follow_the_probabilities():
    """The cached pass gives the logits of the full one; draws depend on the seed and their number alone."""
    prior = make()
    drawn = prior.sample(3, seed=5)
    assert torch.equal(prior.sample(1, seed=5, first=2)[0], drawn[2])
    assert not torch.equal(prior.sample(3, seed=6), drawn)
    many = make(size=(1, 2), n_codebooks=1, codebook_size=3, n_layers=1)
    found = many.sample(4000)[:, 0, 0]
    logits = many.logits(torch.zeros(1, 1, 1, 2, dtype=torch.int64))[0, 0, :, 0, 0]
    share = torch.bincount(found[:, 0], minlength=3) / 4000
    torch.testing.assert_close(share, logits.softmax(0).detach(), atol=0.03, rtol=0)


def test_nll_is_that_of_the_logits_and_learning_lowers_it():
    torch.manual_seed(0)
    prior = PixelPrior(1, 5, (6, 6), channels=16, n_layers=3)
    columns = (torch.arange(6)[None] + torch.arange(6)[:, None]) % 5
    codes = ((columns + torch.randint(5, (32, 1, 1))) % 5)[:, None]  # only the first code is free
    optimizer = torch.optim.Adam(prior.parameters(), 1e-2)
    for _ in range(60):
        nats = prior.nll(codes)
        optimizer.zero_grad()
        nats.mean().backward()
        optimizer.step()
    assert nats.shape == codes.shape
    assert float(nats[:, :, 0, 0].mean()) > 1.5
    assert float(nats.mean()) < 0.3


def test_saved_is_loaded(tmp_path):
    prior = make(attention_every=2, n_classes=2)
    prior.save(tmp_path, torch.float32)
    codes = torch.randint(7, (2, 2, 6, 5))
    assert torch.equal(PixelPrior.from_pretrained(tmp_path).logits(codes), prior.logits(codes))


def test_a_layer_keeps_its_shape():
    layer = GatedLayer(4)
    told = (torch.zeros(1, 8, 1, 1), torch.zeros(1, 8, 1, 1))
    v, h = layer(torch.randn(2, 4, 3, 7), torch.randn(2, 4, 3, 7), told)
    assert v.shape == h.shape == (2, 4, 3, 7)
