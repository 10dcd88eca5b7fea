"""Statistics of codebooks: moving averages, restarts, start from data, state."""

import pytest
import torch

from audiovq.quantize import EMACodebook, GradientCodebook
from audiovq.quantize.codebook import Usage, kmeans


def test_moving_average_is_the_papers():
    book = EMACodebook(6, 3, decay=0.9, restart_below=0)
    counts, sums, vectors = book.counts.clone().double(), book.sums.clone().double(), book.vectors.clone().double()
    for _ in range(3):
        x = torch.randn(4, 3, 25)
        total = counts.sum()
        smoothed = (counts + 1e-5) / (total + 6 * 1e-5) * total
        vectors = sums / smoothed[:, None]
        codes, _ = book.learn(x)
        torch.testing.assert_close(book.vectors.double(), vectors, rtol=1e-5, atol=1e-6)
        rows = x.double().movedim(1, 2).flatten(0, 1)
        assert torch.equal(codes.flatten(), torch.cdist(rows, vectors).argmin(1))
        one_hot = torch.nn.functional.one_hot(codes.flatten(), 6).double()
        counts = 0.9 * counts + 0.1 * one_hot.sum(0)
        sums = 0.9 * sums + 0.1 * one_hot.t() @ rows
        torch.testing.assert_close(book.counts.double(), counts, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(book.sums.double(), sums, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("kind", [EMACodebook, GradientCodebook])
def test_a_restart_lasts(kind, normalised):
    book = kind(8, 4, normalised=normalised, restart_below=0.1)
    far = torch.full((4,), 50.0)
    book._set(
        torch.tensor([3]), torch.nn.functional.normalize(far, dim=0)[None] if normalised else far[None], torch.zeros(1)
    )
    x = torch.randn(2, 4, 40)
    x = torch.nn.functional.normalize(x, dim=1) if normalised else x
    codes, metrics = book.learn(x)
    assert metrics["restarts"] == 1
    restarted = book.table()[3].detach().clone()
    rows = x.movedim(1, 2).flatten(0, 1)
    assert (rows - restarted).norm(dim=1).min() < 1e-6, "a restarted code is a vector of the batch"
    assert (codes == 3).any(), "and used at once"
    # What counts as its history now agrees with where it is: bringing it up to date does not move it away.
    book.refresh()
    mine = rows[(codes == 3).flatten()].mean(0)
    assert (book.table()[3] - restarted).norm() <= (mine - restarted).norm() + 1e-4
    assert book.learn(x)[1]["restarts"] == 0


def test_restarts_move_only_dead_codes_and_can_be_switched_off():
    x = torch.randn(1, 4, 100)
    book = EMACodebook(8, 4, restart_below=0.1)
    book.counts[5] = book.sums[5] = 0
    before = book.vectors.clone()
    book.learn(x)
    moved = (book.vectors - before).norm(dim=1) > 1e-3
    assert moved.nonzero().flatten().tolist() == [5]
    off = EMACodebook(8, 4, restart_below=0)
    off.counts[5] = off.sums[5] = 0
    assert off.learn(x)[1]["restarts"] == 0


def test_more_dead_codes_than_vectors():
    book = EMACodebook(64, 4)
    book.counts[1:] = 0
    _, metrics = book.learn(torch.randn(1, 4, 10))
    assert metrics["restarts"] == 10
    assert book.vectors.isfinite().all()


def test_gradient_codebook_can_restart_between_forward_and_backward():
    book = GradientCodebook(16, 4, normalised=True)
    x = torch.nn.functional.normalize(torch.randn(2, 4, 30), dim=1)
    codes, _ = book.learn(x)
    loss = book.loss(x, codes)
    book.counts[:8] = 0
    assert book.learn(x)[1]["restarts"] == 8
    loss.backward()
    assert book.vectors.grad.isfinite().all()


def test_no_latents_leave_the_statistics_alone():
    book = EMACodebook(8, 4)
    before = {name: value.clone() for name, value in book.state_dict().items() if name not in ("steps", "vectors")}
    codes, metrics = book.learn(torch.zeros(0, 4, 7))
    assert codes.shape == (0, 7)
    assert metrics["usage"] == 0
    assert all(torch.equal(book.state_dict()[name], value) for name, value in before.items())


def test_kmeans_finds_clusters_and_counts_them(clustered):
    x = clustered(1, 6, 4000, centres=10, noise=0.05)[0].t().contiguous()
    centres, counts = kmeans(x, 40, 10, torch.Generator().manual_seed(0))
    assert counts.sum() == len(x)
    nearest = torch.cdist(x, centres)
    assert nearest.amin(1).mean() < 0.15
    torch.testing.assert_close(torch.bincount(nearest.argmin(1), minlength=40).float(), counts, atol=2, rtol=0)
    few, _ = kmeans(x[:5], 40, 3, torch.Generator().manual_seed(0))
    assert few.isfinite().all()


def test_start_from_data_keeps_vectors_and_statistics_together(clustered):
    book = EMACodebook(32, 6)
    x = clustered(1, 6, 2000)[0].t().contiguous()
    book.initialise(x, batch_size=500.0)
    assert book.initialised
    torch.testing.assert_close(book.counts.sum(), torch.tensor(500.0))
    used = book.counts > 0
    before = book.vectors[used].clone()
    book.refresh()
    torch.testing.assert_close(book.vectors[used], before, rtol=1e-3, atol=1e-3)


def test_usage_counts_a_window():
    usage = Usage(4, window=2)
    one = torch.tensor([3.0, 1.0, 0.0, 0.0])
    usage.observe(one)
    metrics = usage.metrics(one, torch.tensor(2.0))
    assert metrics["usage"] == 0.5
    assert metrics["usage_window"] == 0.5
    assert metrics["restarts"] == 2
    torch.testing.assert_close(
        metrics["perplexity"], torch.tensor([0.75, 0.25]).pow(-torch.tensor([0.75, 0.25])).prod()
    )
    usage.observe(torch.tensor([0.0, 0.0, 1.0, 0.0]))
    assert usage.metrics(one)["usage_window"] == 0.75
    usage.observe(torch.tensor([0.0, 0.0, 1.0, 0.0]))
    assert usage.metrics(one)["usage_window"] == 0.25
    assert usage.metrics(torch.zeros(4))["perplexity"] == 1
