"""Sampling: cached equals whole, compiled equals torch, seeds, prompts, filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiovq.errors import AudioVQError
from audiovq.prior import CodePrior, Condition, SamplingConfig
from audiovq.prior.kernels import CompiledStepper, sample_code
from audiovq.prior.networks import Stepper
from tests.prior.conftest import BACKBONES, make_prior


@torch.inference_mode()
def step_through(stepper, prior, codes):
    """The hidden vectors (B, F, C) that a stepper gives when it is fed these codes."""
    frames = torch.cat([torch.full((*codes.shape[:2], 1), prior.absent), codes[:, :, :-1]], dim=2)
    to = torch.from_numpy if isinstance(stepper, CompiledStepper) else lambda x: x
    feed = (lambda x: x.numpy()) if isinstance(stepper, CompiledStepper) else (lambda x: x)
    return torch.stack([to(stepper.hidden(feed(frames[:, :, t]))).clone() for t in range(frames.shape[2])], dim=1)


@torch.inference_mode()
def test_cached_steps_equal_the_full_pass(prior, codes):
    """Over more frames than the window holds."""
    condition = Condition(torch.randn(2, 5), torch.tensor([0, -1]))
    whole, _ = prior.hidden(codes, condition)
    stepped = step_through(Stepper(prior, prior.conditioner(2, condition), SamplingConfig(), 3), prior, codes)
    assert (whole - stepped).abs().max() < 1e-4 * whole.abs().max()


@torch.inference_mode()
def test_compiled_steps_equal_the_full_pass(rounded_prior, codes):
    prior = rounded_prior
    offset = prior.conditioner(2, Condition(torch.randn(2, 5)))
    whole, _ = prior.hidden(codes)
    stepped = step_through(
        CompiledStepper(prior.packed(), prior.conditioner(2, None).numpy(), SamplingConfig(), 3), prior, codes
    )
    assert (whole - stepped).abs().max() < 1e-4 * whole.abs().max()
    told = step_through(CompiledStepper(prior.packed(), offset.numpy(), SamplingConfig(), 3), prior, codes)
    assert (whole - told).abs().max() > 1e-2


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_compiled_and_torch_draw_the_same_codes(groups):
    """Wider than a panel and longer than one, with every sharing of heads."""
    backbone = {**BACKBONES["transformer"], "n_heads": 6, "n_groups": groups, "window": 70}
    prior = make_prior(width=72, backbone=backbone)
    from audiovq.prior.speech import rounded

    prior.load_state_dict(rounded(prior))
    fast, slow = (prior.sample(90, 3, seed=4, fast=fast) for fast in (True, False))
    assert (fast == slow).float().mean() > 0.999 or torch.equal(fast[:, :, :60], slow[:, :, :60])


def test_each_code_is_drawn_from_the_model_given_the_ones_before(prior):
    """With one likeliest code each: sampling must agree with the teacher-forced logits of its own output."""
    drawn = prior.sample(15, 2, sampling=SamplingConfig(temperature=0), fast=False)
    with torch.no_grad():
        assert torch.equal(prior.logits(drawn).argmax(-1), drawn)


def test_seeds_decide_and_items_do_not_depend_on_their_number(rounded_prior):
    prior = rounded_prior
    four = prior.sample(12, 4, seed=7)
    assert torch.equal(four, prior.sample(12, 4, seed=7))
    assert torch.equal(four[:1], prior.sample(12, 1, seed=7))
    assert torch.equal(four[:3], prior.sample(12, 3, seed=7))
    assert not torch.equal(four, prior.sample(12, 4, seed=8))
    assert not torch.equal(four[0], four[1])
    assert torch.equal(four[:, :, :5], prior.sample(5, 4, seed=7))


@pytest.mark.parametrize("fast", [True, False])
def test_a_prompt_is_kept_and_continued(rounded_prior, codes, fast):
    prior = rounded_prior
    out = prior.sample(6, 2, prompt=codes, sampling=SamplingConfig(temperature=0), fast=fast)
    assert torch.equal(out[:, :, :20], codes)
    with torch.no_grad():
        assert torch.equal(prior.logits(out).argmax(-1)[:, :, 20:], out[:, :, 20:])
    both = prior.sample(6, 2, prompt=codes[:1], seed=1, fast=fast)
    assert torch.equal(both[:, :, :20], codes[:1].expand(2, -1, -1))
    assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize("fast", [True, False])
def test_fewer_books_are_drawn_with_the_others_absent(rounded_prior, fast):
    out = rounded_prior.sample(8, 2, n_codebooks=2, sampling=SamplingConfig(temperature=0), fast=fast)
    assert out.shape == (2, 2, 8)
    with torch.no_grad():
        assert torch.equal(rounded_prior.logits(out).argmax(-1), out)


def test_conditions_reach_sampling(rounded_prior):
    prior = rounded_prior
    czech, english = (Condition(language=torch.tensor([i])) for i in (0, 1))
    assert not torch.equal(prior.sample(10, 1, czech), prior.sample(10, 1, english))
    each = prior.sample(10, 2, Condition(language=torch.tensor([0, 1])))
    assert torch.equal(each[:1], prior.sample(10, 1, czech))


def test_what_does_not_fit_is_an_error(rounded_prior, codes):
    for arguments in ({"n_codebooks": 4}, {"n_codebooks": 0}, {"prompt": codes[:, :1]}, {"n": 3, "prompt": codes}):
        with pytest.raises(AudioVQError):
            rounded_prior.sample(3, **arguments)
    for settings in ({"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.5}):
        with pytest.raises(AudioVQError):
            SamplingConfig(**settings)
    with pytest.raises(AudioVQError, match="compiled"):
        make_prior("wavenet").sample(3, fast=True)
    with pytest.raises(AudioVQError, match="backbone"):
        CodePrior(3, 50, 24, {"kind": "none"})


# -- drawing one code -----------------------------------------------------------------------------------------------


def frequencies(logits, temperature=1.0, top_k=0, top_p=1.0, n=4000):
    places = (np.arange(n) + 0.5) / n
    drawn = [sample_code(logits, u, temperature, top_k, top_p) for u in places]
    return np.bincount(drawn, minlength=len(logits)) / n


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(0, 2, 37).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_softmax(logits, temperature):
    assert np.abs(frequencies(logits, temperature) - softmax(logits / temperature)).max() < 1e-3


def test_top_k_keeps_the_k_likeliest(logits):
    expected = softmax(np.where(logits >= np.sort(logits)[-5], logits, -np.inf))
    assert np.abs(frequencies(logits, top_k=5) - expected).max() < 1e-3
    assert frequencies(logits, top_k=1).argmax() == logits.argmax()


def test_top_p_keeps_the_smallest_set_that_reaches_it(logits):
    p = softmax(logits)
    order = np.argsort(-p)
    n = int(np.searchsorted(np.cumsum(p[order]), 0.8)) + 1
    expected = np.zeros_like(p)
    expected[order[:n]] = p[order[:n]] / p[order[:n]].sum()
    assert np.abs(frequencies(logits, top_p=0.8) - expected).max() < 1e-3


def test_extremes(logits):
    assert sample_code(logits, 0.7, 0.0, 0, 1.0) == logits.argmax()
    assert sample_code(logits * 1e4, 0.999, 1.0, 0, 1.0) == logits.argmax()
    flat = np.zeros(8, np.float32)
    assert [sample_code(flat, (i + 0.5) / 8, 1.0, 0, 1.0) for i in range(8)] == list(range(8))
    assert sample_code(flat, np.float32(1 - 2**-24), 1.0, 3, 0.5) == 7


@pytest.mark.parametrize("fast", [True, False])
def test_sampled_codes_can_be_trained_on(fast):
    codes = make_prior(width=24, backbone={**BACKBONES["transformer"], "n_heads": 6}).sample(4, fast=fast)
    table = torch.nn.Embedding(50, 3)
    table(codes).square().sum().backward()  # not an inference tensor
    assert table.weight.grad.abs().sum() > 0
