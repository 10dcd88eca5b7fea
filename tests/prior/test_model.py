"""What a prior promises: causal in time and over books, likelihoods that are ones, fewer books, conditions."""

from __future__ import annotations

import pytest
import torch

from audiovq.prior import Condition
from tests.prior.conftest import make_prior


def test_a_code_depends_on_what_comes_before_it_and_on_nothing_else(prior, codes):
    """By gradient of every logit with respect to every code's vector."""
    n_books, n_frames = 3, 9
    one = codes[:1, :, :n_frames]
    embedded = {}

    def keep(module, inputs, output):
        embedded["vectors"] = output.requires_grad_() if output.is_leaf else output
        output.retain_grad()

    hook = prior.embedding.register_forward_hook(keep)
    reached = torch.zeros(n_books, n_frames, n_books, n_frames, dtype=torch.bool)
    for book in range(n_books):
        for frame in range(n_frames):
            prior.logits(one)[0, book, frame].logsumexp(0).backward()
            gradient = embedded["vectors"].grad[0, 1:].abs().sum(-1)  # (F, K), without the frame before the first
            reached[book, frame] = gradient.T > 0
            prior.zero_grad()
    hook.remove()
    for book in range(n_books):
        for frame in range(n_frames):
            expected = torch.zeros(n_books, n_frames, dtype=torch.bool)
            expected[:, :frame] = True
            expected[:book, frame] = True
            assert not (reached[book, frame] & ~expected).any()
            assert reached[book, frame][:book, frame].all()
            assert reached[book, frame][:, max(frame - 3, 0) : frame].all()


def test_likelihoods_are_those_of_the_logits_and_sum_to_one(prior, codes):
    with torch.no_grad():
        logits, nats = prior.logits(codes), prior.nll(codes)
    assert logits.shape == (2, 3, 20, 50)
    probabilities = torch.log_softmax(logits, -1)
    assert torch.allclose(probabilities.gather(-1, codes[..., None])[..., 0], -nats, atol=1e-5)


def test_a_frame_before_continues_a_recording(prior, codes):
    """The last frame's logits with the receptive field cut to one frame: the one before, given or part of the codes."""
    with torch.no_grad():
        start = prior.logits(codes[:, :, 5:6])
        told = prior.logits(codes[:, :, 5:6], before=codes[:, :, 4])
        absent = prior.logits(codes[:, :, 5:6], before=torch.full((2, 3), prior.absent))
    assert torch.equal(start, absent)
    assert not torch.allclose(start, told)


@torch.no_grad()
def test_fewer_books_are_the_same_model_with_the_others_absent(prior, codes):
    full = codes.clone()
    full[:, 2:] = prior.absent
    assert torch.equal(prior.nll(codes[:, :2]), prior.nll(full)[:, :2])
    assert (prior.nll(full)[:, 2] == 0).all()
    assert not torch.allclose(prior.nll(codes[:, :2]), prior.nll(codes)[:, :2])
    with pytest.raises(ValueError, match="books"):
        prior.nll(torch.zeros(1, 4, 3, dtype=torch.int64))


@torch.no_grad()
def test_left_out_conditions_are_unknown_ones(prior, codes):
    told = Condition(torch.randn(2, 5), torch.tensor([0, 1]))
    nobody = prior.nll(codes)
    assert torch.equal(nobody, prior.nll(codes, Condition(language=torch.tensor([-1, -1]))))
    drop = torch.tensor([False, True])
    mixed = prior.nll(codes, told, keep_speaker=drop, keep_language=drop)
    assert torch.allclose(mixed[0], nobody[0], atol=1e-6)
    assert torch.allclose(mixed[1], prior.nll(codes, told)[1], atol=1e-6)
    assert not torch.allclose(prior.nll(codes, told), nobody)
    for part in (Condition(speaker=told.speaker), Condition(language=told.language)):
        assert not torch.allclose(prior.nll(codes, part), nobody)


def test_training_can_learn_a_pattern():
    """Book 1 counts up, book 2 repeats book 1 of the same frame, book 3 book 1 of the frame before."""
    prior = make_prior().train()
    first = (torch.arange(24) + torch.arange(8)[:, None]) % 50
    codes = torch.stack([first, first, (first - 1) % 50], dim=1)
    optimizer = torch.optim.AdamW(prior.parameters(), 1e-2)
    for _ in range(120):
        loss = prior.nll(codes).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert prior.eval().nll(codes)[:, :, 1:].mean((0, 2)).max() < 0.2
