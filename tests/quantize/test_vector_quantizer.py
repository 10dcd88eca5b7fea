"""The contract of the quantizers with one codebook, and what is special to a vector quantizer."""

import pytest
import torch

from audiovq.errors import AudioVQError
from audiovq.quantize import QuantizerError, VectorQuantizer

SETTINGS = [
    {},
    {"normalised": True},
    {"codebook": "gradient"},
    {"codebook_dim": 4},
    {"codebook_dim": 4, "normalised": True},
    {"codebook": "gradient", "codebook_dim": 4, "normalised": True, "gradient": "rotation"},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dims", [(), (19,), (5, 6), (2, 3, 4)])
def test_decode_gives_the_same_latents_bit_for_bit(settings, dims, clustered):
    quantizer = VectorQuantizer(12, 32, **settings)
    for training in (True, True, False):
        quantizer.train(training)
        x = clustered(6, 12, *dims)
        quantized = quantizer(x)
        assert quantized.latents.shape == x.shape
        assert quantized.codes.shape == (6, 1, *dims)
        assert quantized.codes.dtype == torch.int64
        assert torch.equal(quantizer.decode(quantized.codes), quantized.latents)
        assert {"perplexity", "usage", "usage_window", "restarts"} <= quantized.metrics.keys()
    codes = quantizer.encode(x)
    assert torch.equal(codes, quantized.codes)
    assert torch.equal(torch.cat([quantizer.decode(code[None]) for code in codes]), quantized.latents)


@pytest.mark.parametrize("settings", SETTINGS)
def test_codes_do_not_depend_on_batch_padding_or_chunks(settings, clustered):
    quantizer = VectorQuantizer(12, 64, **settings)
    quantizer(clustered(8, 12, 100))
    quantizer.eval()
    x = clustered(4, 12, 600, noise=1.0)
    whole = quantizer.encode(x)
    assert torch.equal(torch.cat([quantizer.encode(item[None]) for item in x]), whole)
    assert torch.equal(torch.cat([quantizer.encode(part) for part in x.split(37, 2)], 2), whole)
    assert torch.equal(quantizer.encode(torch.cat([x, 5 * torch.randn(4, 12, 50)], 2))[..., :600], whole)


def test_loss_is_the_papers_and_each_term_moves_one_side():
    quantizer = VectorQuantizer(2, 2, codebook="gradient", init_after=None, restart_below=0, beta=0.25)
    quantizer.codebook.vectors.data = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    x = torch.tensor([[[1.0, 8.0], [2.0, 0.0]]], requires_grad=True)  # latents (1, 2) and (8, 0)
    quantized = quantizer(x)
    assert quantized.codes.tolist() == [[[0, 1]]]
    # Squared distances 5 and 4: mean 4.5, once for the codebook and a quarter of it for the commitment.
    torch.testing.assert_close(quantized.loss, torch.tensor(1.25 * 4.5))
    quantized.loss.backward()
    # Commitment: beta * 2 (z - e) / 2 latents. Codebook: 2 (e - z) / 2 latents.
    torch.testing.assert_close(x.grad, 0.25 * torch.tensor([[[1.0, -2.0], [2.0, 0.0]]]))
    torch.testing.assert_close(quantizer.codebook.vectors.grad, torch.tensor([[-1.0, -2.0], [2.0, 0.0]]))


def test_ema_codebook_has_the_commitment_term_alone():
    quantizer = VectorQuantizer(2, 2, init_after=None, restart_below=0, beta=0.5)
    start = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    quantizer.codebook._set(torch.arange(2), start, torch.ones(2))
    x = torch.tensor([[[1.0, 8.0], [2.0, 0.0]]], requires_grad=True)
    quantized = quantizer(x)
    torch.testing.assert_close(quantized.loss, torch.tensor(0.5 * 4.5), rtol=1e-4, atol=1e-4)
    assert not list(quantizer.parameters())


def test_gradient_of_the_latents_is_the_identity_without_maps():
    quantizer = VectorQuantizer(6, 16)
    x, grad = torch.randn(3, 6, 20, requires_grad=True), torch.randn(3, 6, 20)
    quantizer(x).latents.backward(grad)
    assert torch.equal(x.grad, grad)


def test_gradient_goes_through_the_maps():
    quantizer = VectorQuantizer(6, 16, codebook_dim=2)
    x, grad = torch.randn(3, 6, 20, requires_grad=True), torch.randn(3, 6, 20)
    quantizer(x).latents.backward(grad)
    maps = quantizer.projection
    torch.testing.assert_close(x.grad, maps.inward.weight.t() @ (maps.outward.weight.t() @ grad))
    assert maps.inward.weight.grad.abs().sum() > 0
    assert maps.outward.weight.grad.abs().sum() > 0


def test_map_gradients_are_those_of_a_plain_linear_map():
    quantizer = VectorQuantizer(6, 16, codebook_dim=2)
    linear, x = quantizer.projection.inward, torch.randn(3, 6, 20, requires_grad=True)
    grad = torch.randn(3, 2, 20)
    inputs = (x, linear.weight, linear.bias)
    ours = torch.autograd.grad(quantizer.projection.reduce(x), inputs, grad)
    theirs = torch.autograd.grad(linear(x.movedim(1, 2)).movedim(1, 2), inputs, grad)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS)
def test_half_precision_stays_outside(settings, clustered):
    quantizer = VectorQuantizer(12, 32, **settings)
    x = (100 * clustered(4, 12, 50)).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(5):
            quantized = quantizer(x)
    assert quantized.latents.dtype == torch.float32
    assert torch.equal(quantized.codes, quantizer.encode(x))
    (quantized.latents.sum() + quantized.loss).backward()
    tensors = [quantized.latents, quantized.loss, x.grad, *quantizer.state_dict().values(), *quantized.metrics.values()]
    assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize("settings", SETTINGS)
def test_all_codes_live_on_clustered_latents(settings, clustered):
    quantizer = VectorQuantizer(12, 32, **settings)
    parameters = list(quantizer.parameters())
    optimizer = torch.optim.Adam(parameters, 1e-3) if parameters else None
    for _ in range(60):
        x = clustered(8, 12, 50)
        quantized = quantizer(x)
        if optimizer:
            optimizer.zero_grad()
            (quantized.loss + (quantized.latents - x).square().mean()).backward()
            optimizer.step()
    assert quantized.metrics["usage_window"] == 1
    assert quantized.metrics["perplexity"] > 16


def test_collapsed_codebook_recovers(clustered):
    quantizer = VectorQuantizer(12, 32, decay=0.9, init_after=None)
    quantizer.codebook._set(torch.arange(32), 1e3 + torch.randn(32, 12), torch.ones(32))
    restarts = 0
    for _ in range(100):
        metrics = quantizer(clustered(8, 12, 50)).metrics
        restarts += int(metrics["restarts"])
    assert restarts >= 31
    assert metrics["usage"] > 0.9


def test_latents_pass_until_the_start(clustered):
    quantizer = VectorQuantizer(12, 32, init_after=4, init_batches=3)
    for step in range(4):
        x = clustered(4, 12, 50).requires_grad_()
        quantized = quantizer(x)
        assert torch.equal(quantized.latents, x), step
        assert quantized.loss == 0
        assert (quantized.codes == -1).all()
        assert not quantizer.started()
    assert quantizer.state_dict()["start.kept"].shape == (2 * 200, 12)
    quantized = quantizer(clustered(4, 12, 50))
    assert quantizer.started()
    assert torch.equal(quantizer.decode(quantized.codes), quantized.latents)
    assert quantizer.state_dict()["start.kept"].shape == (0, 12)
    assert (quantized.latents - clustered(4, 12, 50)).isfinite().all()


@pytest.mark.parametrize("settings", [*SETTINGS, {"init_after": 5, "init_batches": 3}])
def test_resumed_goes_on_as_if_it_had_not_stopped(settings, clustered):
    batches = [clustered(4, 12, 30) for _ in range(10)]
    # decay 0.5 keeps restarts coming, whose random choices must be the same too
    first = VectorQuantizer(12, 32, decay=0.5, restart_below=0.5, **settings)
    restarts = 0.0
    for step, batch in enumerate(batches):
        if step == 4:
            state = {name: value.clone() for name, value in first.state_dict().items()}
            torch.manual_seed(99)
            second = VectorQuantizer(12, 32, decay=0.5, restart_below=0.5, **settings)
            second.load_state_dict(state)
        quantized = first(batch)
        restarts += float(quantized.metrics["restarts"])
        if step >= 4:
            assert torch.equal(second(batch).latents, quantized.latents), step
    assert restarts > 0
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


@pytest.mark.parametrize("settings", SETTINGS)
def test_weights_without_statistics_can_be_used_and_trained_on(settings, clustered):
    quantizer, other = VectorQuantizer(12, 32, **settings), VectorQuantizer(12, 32, **settings)
    for _ in range(20):
        quantizer(clustered(4, 12, 50))
    names = ("counts", "sums", "age", "steps", "initialised")
    slim = {key: value for key, value in quantizer.state_dict().items() if key.rsplit(".", 1)[-1] not in names}
    assert len(slim) < len(quantizer.state_dict())
    other.load_state_dict(slim, strict=False)
    assert other.started()
    x = clustered(4, 12, 50)
    assert torch.equal(other.eval()(x).latents, quantizer.eval()(x).latents)
    # The first step finds the codebook where it was: no new start, nothing forgotten.
    vectors = other.codebook.table().detach().clone()
    metrics = other.train()(x).metrics
    torch.testing.assert_close(other.codebook.table().detach(), vectors, rtol=1e-4, atol=1e-5)
    assert metrics["restarts"] == 0


def test_evaluation_leaves_the_state_alone(clustered):
    quantizer = VectorQuantizer(12, 32)
    quantizer(clustered(4, 12, 50))
    quantizer.eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(clustered(4, 12, 50))
    quantizer.encode(clustered(4, 12, 50))
    assert all(torch.equal(quantizer.state_dict()[name], value) for name, value in before.items())


def test_one_clear_error_for_what_does_not_fit():
    quantizer = VectorQuantizer(12, 32)
    for call in (
        lambda: quantizer(torch.randn(2, 11, 4)),
        lambda: quantizer(torch.randn(2, 12, 4), n_codebooks=2),
        lambda: quantizer.encode(torch.zeros(2, 12, 4, dtype=torch.int64)),
        lambda: quantizer.decode(torch.full((2, 1, 4), 32)),
        lambda: quantizer.decode(torch.zeros(2, 2, 4, dtype=torch.int64)),
        lambda: quantizer.decode(torch.zeros(2, 1, 4)),
        lambda: VectorQuantizer(12, 32, codebook="none"),
    ):
        with pytest.raises(QuantizerError) as raised:
            call()
        assert isinstance(raised.value, AudioVQError)
        assert "\n" not in str(raised.value)
