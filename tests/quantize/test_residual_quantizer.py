"""Residual quantization: levels in order, each heard once."""

import pytest
import torch

from audiovq.quantize import QuantizerError, ResidualVectorQuantizer, VectorQuantizer

SETTINGS = [
    {},
    {"codebook": "gradient"},
    {"gradient": "rotation"},
    {"codebook_dim": 4, "normalised": True},
    {"codebook": "gradient", "codebook_dim": 4},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dims", [(), (19,), (5, 6)])
@pytest.mark.parametrize("dropout", [0.0, 0.7])
def test_decode_gives_the_same_latents_bit_for_bit(settings, dims, dropout, clustered):
    quantizer = ResidualVectorQuantizer(12, 3, 32, dropout=dropout, **settings)
    for training in (True, True, False):
        quantizer.train(training)
        x = clustered(10, 12, *dims)
        for n_codebooks in (None, 1, 2):
            quantized = quantizer(x, n_codebooks)
            assert quantized.latents.shape == x.shape
            assert quantized.codes.shape == (10, n_codebooks or 3, *dims)
            assert torch.equal(quantizer.decode(quantized.codes), quantized.latents)
    for n_codebooks in (None, 1, 2):
        codes = quantizer.encode(x, n_codebooks)
        assert torch.equal(codes, quantizer(x, n_codebooks).codes)
        assert torch.equal(codes, quantizer.encode(x)[:, :n_codebooks])
        assert torch.equal(torch.cat([quantizer.decode(code[None]) for code in codes]), quantizer.decode(codes))


@pytest.mark.parametrize("settings", SETTINGS)
def test_codes_do_not_depend_on_batch_padding_or_chunks(settings, clustered):
    quantizer = ResidualVectorQuantizer(12, 3, 64, **settings)
    quantizer(clustered(8, 12, 100))
    quantizer.eval()
    x = clustered(3, 12, 600, noise=1.0)
    whole = quantizer.encode(x)
    assert torch.equal(torch.cat([quantizer.encode(item[None]) for item in x]), whole)
    assert torch.equal(torch.cat([quantizer.encode(part) for part in x.split(37, 2)], 2), whole)
    assert torch.equal(quantizer.encode(torch.cat([x, 5 * torch.randn(3, 12, 50)], 2))[..., :600], whole)


@pytest.mark.parametrize("settings", SETTINGS)
def test_more_levels_leave_less(settings, clustered):
    quantizer = ResidualVectorQuantizer(12, 3, 64, **settings)
    for _ in range(5):
        quantizer(clustered(8, 12, 100, noise=0.5))
    quantizer.eval()
    x = clustered(8, 12, 100, noise=0.5)
    errors = [float((quantizer(x, n).latents.detach() - x).square().mean()) for n in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] < float(x.square().mean())


def test_one_level_is_a_vector_quantizer(clustered):
    batches = [clustered(4, 12, 50) for _ in range(4)]
    residual, plain = ResidualVectorQuantizer(12, 1, 32), VectorQuantizer(12, 32)
    for batch in batches:
        a, b = residual(batch), plain(batch)
        assert torch.equal(a.latents, b.latents)
        torch.testing.assert_close(a.loss, b.loss)


def test_n_codebooks_means_the_same_in_training_and_evaluation(clustered):
    quantizer = ResidualVectorQuantizer(12, 4, 32, dropout=1.0)
    quantizer(clustered(8, 12, 50))
    x = clustered(8, 12, 50)
    for n_codebooks in (1, 2, 4):
        quantizer.train()
        before = [int(level.codebook.steps) for level in quantizer.levels]
        trained = quantizer(x, n_codebooks)
        learned = [int(level.codebook.steps) - step for level, step in zip(quantizer.levels, before, strict=True)]
        assert learned == [1] * n_codebooks + [0] * (4 - n_codebooks)
        quantizer.eval()
        evaluated = quantizer(x, n_codebooks)
        assert trained.codes.shape == evaluated.codes.shape == (8, n_codebooks, 50)
        assert (trained.codes >= 0).all(), "no dropout when the number is given"


def test_gradient_reaches_the_latents_once():
    quantizer = ResidualVectorQuantizer(6, 4, 16)
    x, grad = torch.randn(3, 6, 20, requires_grad=True), torch.randn(3, 6, 20)
    quantizer(x).latents.backward(grad)
    assert torch.equal(x.grad, grad)


def test_gradient_through_maps_is_that_of_the_maps_alone():
    quantizer = ResidualVectorQuantizer(6, 3, 16, codebook_dim=2)
    x, grad = torch.randn(3, 6, 20), torch.randn(3, 6, 20)
    quantizer(x)
    x.requires_grad_()
    quantizer(x).latents.backward(grad)
    plain = x.detach().clone().requires_grad_()
    left, total = plain, torch.zeros_like(x)
    for level in quantizer.levels:  # the same maps in a row without codebooks
        part = level.projection.expand(level.projection.reduce(left))
        left, total = left - part, total + part
    total.backward(grad)
    torch.testing.assert_close(x.grad, plain.grad, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_the_maps_of_each_level_once():
    quantizer = ResidualVectorQuantizer(6, 3, 16, codebook_dim=2)
    x, grad = torch.randn(3, 6, 20), torch.randn(3, 6, 20)
    quantizer(x)
    quantized = quantizer(x)
    quantized.latents.backward(grad)
    for index, level in enumerate(quantizer.levels):
        # The level's output is W q + b: its weight gets the sum of grad q', whatever the levels after it do.
        points = level.codebook.table()[quantized.codes[:, index]]
        expected = torch.einsum("bct,btd->cd", grad, points)
        torch.testing.assert_close(level.projection.outward.weight.grad, expected, rtol=1e-4, atol=1e-5)
        assert level.projection.inward.weight.grad.abs().sum() > 0


def test_every_level_commits(clustered):
    quantizer = ResidualVectorQuantizer(5, 3, 16, beta=0.5, restart_below=0)
    quantizer(clustered(4, 5, 30))
    x = clustered(4, 5, 30, noise=0.5).requires_grad_()
    quantized = quantizer(x)
    parts = [quantizer.decode(quantized.codes[:, : n + 1]) for n in range(3)]
    expected = torch.stack([0.5 * (x - part).square().sum(1).mean() for part in parts]).mean()
    torch.testing.assert_close(quantized.loss, expected)
    (ours,) = torch.autograd.grad(quantized.loss, x)
    (theirs,) = torch.autograd.grad(expected, x)
    torch.testing.assert_close(ours, theirs)


def test_dropout_draws_numbers_of_codebooks_for_each_item(clustered):
    quantizer = ResidualVectorQuantizer(6, 4, 16, dropout=0.5)
    quantizer(clustered(64, 6, 5))
    quantized = quantizer(clustered(400, 6, 5))
    used = (quantized.codes >= 0).all(2)
    books = used.sum(1)
    assert torch.equal((quantized.codes >= 0).any(2), used), (
        "a codebook is used for all of an item or for nothing of it"
    )
    assert torch.equal(used, torch.arange(4) < books[:, None]), "coarse to fine"
    shares = torch.bincount(books, minlength=5)[1:] / 400  # 1/8 each, and 1/2 more for all four
    torch.testing.assert_close(shares, torch.tensor([0.125, 0.125, 0.125, 0.625]), atol=0.08, rtol=0)
    assert set(quantizer(clustered(8, 6, 5)).metrics) >= {"perplexity/0", "usage/3", "usage_window/2", "restarts/1"}


def test_dropout_weights_say_how_often_each_number_is_drawn(clustered):
    quantizer = ResidualVectorQuantizer(6, 4, 16, dropout=1.0, dropout_weights=[0, 3, 0, 1])
    quantizer(clustered(64, 6, 5))
    books = (quantizer(clustered(400, 6, 5)).codes >= 0).all(2).sum(1)
    shares = torch.bincount(books, minlength=5)[1:] / 400
    torch.testing.assert_close(shares, torch.tensor([0, 0.75, 0, 0.25]), atol=0.08, rtol=0)
    with pytest.raises(QuantizerError, match="4 numbers"):
        ResidualVectorQuantizer(6, 4, 16, dropout_weights=[1, 1])


def test_levels_learn_only_from_items_that_use_them(clustered):
    quantizer = ResidualVectorQuantizer(6, 4, 16, dropout=1.0, decay=0.0, restart_below=0)
    quantizer(clustered(4, 6, 5))
    quantized = quantizer(clustered(50, 6, 5))
    for index, level in enumerate(quantizer.levels):
        assert level.codebook.counts.sum() == (quantized.codes[:, index] >= 0).sum()


def test_all_codes_live_on_every_level(clustered):
    quantizer = ResidualVectorQuantizer(12, 4, 64, dropout=0.5)
    for _ in range(60):
        metrics = quantizer(clustered(8, 12, 50, noise=0.5)).metrics
    assert all(metrics[f"usage_window/{level}"] == 1 for level in range(4))


def test_latents_pass_until_all_levels_start(clustered):
    quantizer = ResidualVectorQuantizer(12, 3, 32, init_after=3, init_batches=2)
    for _ in range(3):
        x = clustered(4, 12, 50)
        quantized = quantizer(x)
        assert torch.equal(quantized.latents, x)
        assert (quantized.codes == -1).all()
        assert torch.equal(quantizer.decode(quantized.codes), torch.zeros_like(x))
    quantized = quantizer(clustered(4, 12, 50))
    assert (quantized.codes >= 0).all()
    assert all(level.codebook.initialised for level in quantizer.levels)


@pytest.mark.parametrize("when", [2, 6])
def test_resumed_goes_on_as_if_it_had_not_stopped(when, clustered):
    settings = {"n_codebooks": 3, "codebook_size": 32, "decay": 0.5, "restart_below": 0.5, "init_after": 4}
    batches = [clustered(4, 12, 30) for _ in range(10)]
    first, restarts = ResidualVectorQuantizer(12, **settings), 0.0
    for step, batch in enumerate(batches):
        if step == when:
            second = ResidualVectorQuantizer(12, **settings)
            second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
        quantized = first(batch)
        restarts += float(quantized.metrics["restarts"])
        if step >= when:
            assert torch.equal(second(batch).latents, quantized.latents), step
    assert restarts > 0


def test_half_precision_stays_outside(clustered):
    quantizer = ResidualVectorQuantizer(12, 3, 32, dropout=0.5)
    x = (100 * clustered(4, 12, 50)).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(5):
            quantized = quantizer(x)
    (quantized.latents.sum() + quantized.loss).backward()
    tensors = [quantized.latents, quantized.loss, x.grad, *quantizer.state_dict().values(), *quantized.metrics.values()]
    assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize("shape", [(0, 12, 5), (3, 12, 0)])
def test_nothing_gives_nothing(shape):
    quantizer = ResidualVectorQuantizer(12, 3, 32, init_after=None)
    for training in (True, False):
        quantized = quantizer.train(training)(torch.zeros(shape))
        assert quantized.latents.shape == shape
        assert quantized.loss == 0
        assert torch.equal(quantizer.decode(quantizer.encode(torch.zeros(shape))), quantized.latents)


def test_one_clear_error_for_what_does_not_fit():
    quantizer = ResidualVectorQuantizer(12, 3, 32)
    for call in (
        lambda: quantizer(torch.randn(2, 12, 4), n_codebooks=4),
        lambda: quantizer(torch.randn(2, 12, 4), n_codebooks=0),
        lambda: quantizer.encode(torch.randn(2, 12, 4), n_codebooks=4),
        lambda: quantizer.decode(torch.zeros(2, 4, 4, dtype=torch.int64)),
        lambda: ResidualVectorQuantizer(12, 0),
    ):
        with pytest.raises(QuantizerError):
            call()
