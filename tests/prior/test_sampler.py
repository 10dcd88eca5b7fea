"""Sampling without PyTorch: the model, the codes and the speech of `CodePrior` and `SpeechPrior`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from audiovq import devices
from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.interfaces import N_VALUES
from audiovq.io import read_json
from audiovq.prior import CodeSampler, Condition, SamplingConfig, SpeechPrior, SpeechSampler
from audiovq.prior.kernels import sample_code
from audiovq.prior.sampler import NumpyStepper, load_sampler, prior_folder
from audiovq.prior.sampling import sample_codes
from audiovq.prior.speech import load_prior, rounded, save_prior
from audiovq.prior.weights import EPS, restore_rows, round_rows
from tests.codec.tiny import make_codec, speech_like
from tests.prior.conftest import BACKBONES, make_prior
from tests.prior.test_speech import density

GREEDY = SamplingConfig(temperature=0)


def both(**changes) -> tuple:
    """The same prior, its matrices as 8 bits hold them, in PyTorch and in NumPy."""
    prior = make_prior(pitch_values=70, **changes)
    prior.load_state_dict(rounded(prior))
    return prior, CodeSampler(prior.config, {name: tensor.numpy() for name, tensor in prior.state_dict().items()})


@pytest.fixture(scope="module")
def priors():
    """Of heads that the compiled kernels can read."""
    return both(width=24, backbone={**BACKBONES["transformer"], "n_heads": 6, "n_groups": 2})


@pytest.fixture(scope="module")
def streams():
    generator = torch.Generator().manual_seed(3)
    return torch.cat([torch.randint(0, size, (2, 1, 20), generator=generator) for size in (70, 50, 50, 50)], dim=1)


def test_rows_are_rounded_as_by_pytorch():
    weight = torch.randn(7, 40, 33, generator=torch.Generator().manual_seed(0)) ** 3
    weight[2, 5] = 0
    for _ in range(2):
        rows, scale = devices.round_rows(weight)
        assert all(map(np.array_equal, round_rows(weight.numpy()), (rows.numpy(), scale.numpy())))
        weight = devices.restore_rows(rows, scale)
        assert np.array_equal(restore_rows(rows.numpy(), scale.numpy()), weight.numpy())


@pytest.mark.parametrize("backbone", [{}, {"n_heads": 6, "n_groups": 2}, {"n_heads": 6, "n_groups": 6, "window": 50}])
def test_logits_are_those_of_the_full_pass(backbone, streams):
    """Over more frames than a window holds, and fewer; for conditions and for none."""
    prior, sampler = both(width=24, backbone={**BACKBONES["transformer"], **backbone})
    assert prior.depth.norm.eps == EPS
    speakers = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    for condition in (None, Condition(speakers, torch.tensor([1, 1]))):
        with torch.no_grad():
            expected = prior.logits(streams, condition).numpy()
            offset = prior.conditioner(2, condition).numpy()
        given = (None, -1) if condition is None else (speakers.numpy(), 1)
        assert np.abs(sampler.offset(2, *given) - offset).max() < 1e-6
        stepper = NumpyStepper(sampler, sampler.offset(2, *given), SamplingConfig(), 4)
        frames = np.concatenate([np.full((2, 4, 1), prior.absent), streams.numpy()], axis=2)
        vectors, below = sampler.arrays["embedding.vectors"], sampler.arrays["depth.below"]
        for t in range(20):
            hidden, known = stepper.hidden(frames[:, :, t]), 0
            for k, size in enumerate(prior.sizes):
                found = stepper.logits(hidden @ stepper.into[k].T + known, k)
                wanted = expected[:, k, t, :size]
                assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
                if k < 3:
                    known = known + vectors[k, frames[:, k, t + 1]] @ below[k].T


def test_the_kernels_sample_the_codes_of_the_prior(priors):
    prior, sampler = priors
    for settings in ({}, {"n_codebooks": 2}, {"sampling": SamplingConfig(0.8, 20, 0.9)}):
        assert np.array_equal(sampler.sample(40, 3, seed=4, **settings), prior.sample(40, 3, seed=4, **settings))


def test_the_kernels_sample_the_codes_of_the_prior_for_speakers_too(priors):
    prior, sampler = priors
    speakers = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    condition = Condition(torch.from_numpy(speakers), torch.ones(20, dtype=torch.int64))
    sampled = prior.sample(60, 20, condition, seed=3)
    assert np.array_equal(sampled, sampler.sample(60, 20, speakers, 1, seed=3))
    for i in range(20):
        assert torch.equal(sampled[i : i + 1], prior.sample(60, 1, condition.items(i, i + 1), seed=3, first=i))


@pytest.mark.parametrize("fast", [True, False])
def test_items_do_not_depend_on_their_number(priors, fast):
    sampler, speakers = priors[1], np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    together = sampler.sample(60, 20, speakers, seed=3, fast=fast)
    for i in range(20):
        assert np.array_equal(
            together[i : i + 1], sampler.sample(60, 1, speakers[i : i + 1], seed=3, first=i, fast=fast)
        )
    assert not np.array_equal(together[0], together[1])
    assert not np.array_equal(together, sampler.sample(60, 20, speakers, seed=4, fast=fast))


@pytest.mark.parametrize("fast", [True, False])
def test_prompts_are_kept_and_continued(priors, streams, fast):
    prior, sampler = priors
    out = sampler.sample(6, 2, prompt=streams.numpy(), sampling=GREEDY, n_codebooks=2, fast=fast)
    assert np.array_equal(out[:, :, :20], streams[:, :3])
    with torch.no_grad():
        logits = prior.logits(torch.from_numpy(out)).numpy()
    assert np.array_equal(logits.argmax(-1)[:, :, 20:], out[:, :, 20:])
    each = sampler.sample(6, 3, prompt=streams[:1].numpy(), seed=1, fast=fast)
    assert np.array_equal(each[:, :, :20], streams[:1].expand(3, -1, -1))
    assert not np.array_equal(each[0], each[1])


def test_conditions_reach_sampling(priors):
    sampler, speakers = priors[1], np.ones((1, 5), np.float32)
    found = [sampler.sample(10, 1, *given) for given in ((), (speakers,), (None, 0), (None, 1))]
    assert len({array.tobytes() for array in found}) == 4
    assert sampler.language_number("en") == 1
    with pytest.raises(AudioVQError, match="'xx' is not supported; supported: cs, en"):
        sampler.language_number("xx")


def test_what_does_not_fit_is_an_error(priors, streams):
    for arguments in ({"n_codebooks": 4}, {"n_codebooks": 0}, {"prompt": streams[:, :1].numpy()}, {"n": 0}):
        with pytest.raises(AudioVQError):
            priors[1].sample(3, **arguments)


@pytest.mark.parametrize(
    "settings", [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.3, 5, 1.0), (1.0, 0, 0.8), (0.9, 9, 0.6), (1, 1, 1)]
)
def test_codes_are_sampled_as_by_the_kernel(settings):
    """But for uniform numbers at the border between two codes."""
    rng, uniforms = np.random.default_rng(0), (np.arange(500, dtype=np.float32) + 0.5) / 500
    for scale in (0.0, 0.3, 2.0, 30.0):
        logits = rng.normal(0, scale, 37).astype(np.float32)
        found = sample_codes(np.tile(logits, (500, 1)), uniforms, SamplingConfig(*settings))
        expected = [sample_code(logits, uniform, *settings) for uniform in uniforms]
        assert np.count_nonzero(found != expected) <= 1


def test_extremes():
    logits, last = np.random.default_rng(0).normal(0, 2, (1, 37)).astype(np.float32), np.float32(1 - 2**-24)
    for config in (GREEDY, SamplingConfig(1e-45), SamplingConfig(top_k=1), SamplingConfig(top_p=1e-9)):
        for uniform in (0.0, 0.5, last):
            assert sample_codes(logits, np.array([uniform]), config) == logits.argmax()
    flat = np.zeros((8, 8), np.float32)
    assert sample_codes(flat, (np.arange(8) + 0.5) / 8, SamplingConfig()).tolist() == list(range(8))
    assert sample_codes(flat[:1], np.array([last]), SamplingConfig(1.0, 3, 0.5)) == 7


# -- speech -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same prior in PyTorch and in NumPy, both with PyTorch's codec."""
    folder = tmp_path_factory.mktemp("model")
    save_weights(make_codec(), folder)
    sizes = {"n_codebooks": 4, "codebook_size": 32, "speaker_dim": 8, "pitch_values": N_VALUES + 1}
    source = SpeechPrior(make_codec(), make_prior(**sizes))
    save_prior(source.prior, folder / "prior", density()[0])
    codec, prior = make_codec(), folder / "prior"
    return SpeechPrior(codec, *load_prior(prior)), SpeechSampler(codec, *load_sampler(prior))


@pytest.mark.parametrize("prompted", [False, True])
def test_speech_is_that_of_the_prior_for_tensors(sources, prompted):
    """Whatever the engine, the same seed gives the same codes."""
    prior, sampler = sources
    prompt = prior.codec.encode([0.1 * speech_like(1.33)], n_codebooks=3) if prompted else None
    channel = prompt.channel(0, prior.codec) if prompted else None
    encoded = prior.generate(0.705, 3, None, "cs", prompt, seed=5, temperature=0.8)
    channels = sampler.sample(0.705, 3, None, "cs", channel, seed=5, temperature=0.8)
    for i, one in enumerate(channels):
        codes = np.concatenate([packet.codes for packet in one.packets], axis=1)
        assert np.array_equal(codes, encoded.codes[i])
        assert np.array_equal(np.concatenate([packet.pitch for packet in one.packets]), encoded.pitch[i])
        assert [packet.level for packet in one.packets] == encoded.level[i].tolist()
        assert np.array_equal(one.speaker, encoded.speaker[i])
        assert (one.n_samples, one.packet_frames) == (encoded.n_samples[i], encoded.packet_frames)
    assert codes.shape == ((3, 66 + 36) if prompted else (4, 36))


def test_prompts_and_speakers_that_do_not_fit(sources):
    _, sampler = sources
    short = sampler.codec.encode([0.1 * torch.randn(100)])
    with pytest.raises(AudioVQError, match="shorter than one frame"):
        sampler.sample(1.0, prompt=short.channel(0, sampler.codec))
    with pytest.raises(AudioVQError, match="no distribution of speakers"):
        SpeechSampler(sampler.codec, sampler.prior).sample(1.0)
    with pytest.raises(AudioVQError, match="longer duration"):
        sampler.sample(0)


# -- priors on disk -----------------------------------------------------------------------------------------------


def test_damage_is_one_line(tmp_path, codec):
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    save_prior(make_prior(), tmp_path)
    with pytest.raises(AudioVQError, match=r"trained on codes of model none.*train one"):
        load_sampler(tmp_path, codec)
    good, tensors = read_json(config), load_file(weights)
    for damage in ({"width": 48}, {"n_codebooks": 2}, {"backbone": {"kind": "transformer"}}, {"temperature": "hot"}):
        config.write_text(json.dumps(good | damage))
        with pytest.raises(AudioVQError, match="cannot be loaded") as error:
            load_sampler(tmp_path)
        assert "\n" not in str(error.value)
    config.write_text(json.dumps(good))
    without = {name: array for name, array in tensors.items() if name != "depth.heads"}
    for wrong in (without, tensors | {"more": np.zeros(3, np.float32)}, tensors | {"depth.heads": np.zeros((2, 3))}):
        save_file(wrong, weights)
        with pytest.raises(AudioVQError, match="cannot be loaded"):
            load_sampler(tmp_path)
    weights.write_bytes(b"no weights")
    with pytest.raises(AudioVQError, match="cannot be loaded"):
        load_sampler(tmp_path)
    weights.unlink()
    with pytest.raises(AudioVQError, match="no prior in"):
        load_sampler(tmp_path)


def test_a_prior_of_a_run_is_named_as_models_are(tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path / "cache"))
    best = tmp_path / "cache" / "runs" / "mine" / "best"
    save_prior(make_prior(), best)
    assert prior_folder(prior="runs/mine") == prior_folder(prior="runs/mine/best") == prior_folder(prior=best) == best
    with pytest.raises(AudioVQError, match="no prior in runs/other"):
        prior_folder(prior="runs/other")


def test_a_prior_without_a_transformer_is_refused(tmp_path):
    save_prior(make_prior("wavenet"), tmp_path)
    with pytest.raises(AudioVQError, match="has no transformer"):
        load_sampler(tmp_path)
