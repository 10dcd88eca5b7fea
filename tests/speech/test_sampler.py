"""The sampler draws what the network says: cached == whole, batch == alone, in pieces == at once."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch

from audiovq.errors import AudioVQError
from audiovq.speech.stretches import sample_in_stretches
from audiovq.speech.wavenet import WaveNetDecoder, WaveNetState, draw
from audiovq.wavenet.sampler import Noise, WaveNetSampler

STACK = {"channels": 32, "skip_channels": 32, "n_layers": 8, "dilation_cycle": 8}
MU_LAW, MIXTURE = {"kind": "mu_law"}, {"kind": "mixture", "n_mixtures": 3}
CONFIGS = {
    "mu-law": {"output": MU_LAW},
    "mixture": {"output": MIXTURE},
    "two mu-law samples a step": {"output": MU_LAW, "samples_per_step": 2},
    "sub-bands with prediction": {"output": MIXTURE, "n_bands": 4, "taps": 3},
    # Widths that fill no vectors, three taps (so rings of two dilations), dilations that no block divides.
    "odd sizes": {
        "output": MIXTURE,
        "taps": 1,
        "stack": {"channels": 20, "skip_channels": 13, "n_layers": 7, "dilation_cycle": 5, "kernel_size": 3},
    },
}
WIDTH = 16  # of the condition


def make_decoder(stack=STACK, **config) -> WaveNetDecoder:
    torch.manual_seed(0)
    backbone = {"channels": [WIDTH], "dilations": [[1]], "upsample": []}
    decoder = WaveNetDecoder(8, 4, 80, backbone, stack, **config).eval()
    with torch.no_grad():  # outputs that say something, instead of a start for training
        project = decoder.stack.project
        project.weight.normal_(0, 0.3)
        coefficients = decoder.n_values * decoder.output.n_parameters
        project.weight[coefficients:] *= 0.05  # a prediction that stays bounded
        if decoder.level is not None:
            decoder.level.weight.normal_(0, 0.2)
    return decoder


def make_condition(decoder, batch: int, steps: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, WIDTH, steps // decoder.hold, generator=generator)


def make_noise(sampler, batch: int, steps: int) -> torch.Tensor:
    return torch.cat([Noise(sampler, seed).at(0, steps) for seed in range(batch)])


@pytest.fixture(scope="module", params=CONFIGS)
def decoder(request) -> WaveNetDecoder:
    return make_decoder(**CONFIGS[request.param])


@pytest.fixture(scope="module")
def sampler(decoder) -> WaveNetSampler:
    return WaveNetSampler(decoder)


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 6])
def test_cached_equals_whole(decoder, sampler, batch):
    """2,000 steps one by one, and all of them as convolutions."""
    steps = 2000
    condition = make_condition(decoder, batch, steps)
    values = decoder.output.on_grid(0.3 * torch.randn(batch, decoder.n_values, steps))
    before = torch.nn.functional.pad(values, (1, -1))
    whole = decoder.stack(decoder.inputs(before), condition)
    cached = sampler.outputs(condition, values)
    assert whole.std() > 0.1
    torch.testing.assert_close(cached, whole, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_draws_as_the_plain_loop(decoder, sampler):
    steps = 400
    condition, noise = make_condition(decoder, 2, steps), make_noise(sampler, 2, steps)
    plain = draw(decoder, condition, noise, WaveNetState(decoder, 2))
    fast = sampler.sample(condition, noise)
    # One value that is rounded to the other side changes all that come after it: they may part, but not at once.
    assert plain.std() > 0.001
    torch.testing.assert_close(fast[..., :40], plain[..., :40], atol=0.03 * float(plain.std()), rtol=0)


def test_batch_equals_alone(decoder, sampler):
    steps, batch = 240, 7
    condition, noise = make_condition(decoder, batch, steps), make_noise(sampler, batch, steps)
    together = sampler.sample(condition, noise)
    for b in range(batch):
        assert torch.equal(together[b : b + 1], sampler.sample(condition[b : b + 1], noise[b : b + 1]))
    assert not torch.equal(together[0], together[1])


def test_pieces_equal_whole(decoder, sampler):
    steps = 8 * decoder.hold
    condition, noise = make_condition(decoder, 2, steps), make_noise(sampler, 2, steps)
    whole = sampler.sample(condition, noise)
    state, pieces, start = sampler.state(2), [], 0
    for n in (1, 0, 3, 4):
        part = slice(start * decoder.hold, (start + n) * decoder.hold)
        pieces.append(sampler.sample(condition[..., start : start + n], noise[..., part], state))
        start += n
    assert torch.equal(torch.cat(pieces, dim=2), whole)


def test_continues_a_prompt(decoder, sampler):
    """What was drawn, given back as a prompt, goes on as it went on."""
    steps = 240
    condition, noise = make_condition(decoder, 1, steps), make_noise(sampler, 1, steps)
    drawn = sampler.sample(condition, noise)
    again = sampler.sample(condition, noise, given=drawn[..., :100])
    assert torch.equal(again, drawn)
    other = sampler.sample(condition, noise, given=-drawn[..., :100])
    assert not torch.equal(other[..., 100:], drawn[..., 100:])


@torch.inference_mode()
def test_half_the_memory(decoder, sampler):
    """bfloat16 weights: what the network says moves by what rounding the weights to 8 bits explains."""
    steps = 400
    condition = make_condition(decoder, 2, steps)
    values = decoder.output.on_grid(0.3 * torch.randn(2, decoder.n_values, steps))
    exact = sampler.outputs(condition, values)
    small = WaveNetSampler(decoder, weights="bfloat16")
    assert small.net.weights.nbytes * 2 == sampler.net.weights.nbytes
    moved = small.outputs(condition, values) - exact
    assert 0 < moved.std() < 0.01 * exact.std()


@torch.inference_mode()
def test_bfloat16_weights_are_exact_when_they_can_be():
    """Weights that bfloat16 holds lose nothing, though each has another below it."""
    decoder = make_decoder(output=MIXTURE)
    for name, parameter in decoder.stack.named_parameters():
        if name.endswith("weight") and not name.startswith(("entry", "condition")):
            parameter.copy_(parameter.bfloat16())
    condition = make_condition(decoder, 1, 400)
    values = decoder.output.on_grid(0.3 * torch.randn(1, 1, 400))
    exact = WaveNetSampler(decoder).outputs(condition, values)
    moved = WaveNetSampler(decoder, weights="bfloat16").outputs(condition, values) - exact
    assert moved.std() < 0.004 * exact.std()


def test_temperature():
    decoder = make_decoder(output=MIXTURE)
    sampler = WaveNetSampler(decoder)
    condition, noise = make_condition(decoder, 1, 240), make_noise(sampler, 1, 240)
    cold = sampler.sample(condition, noise, temperature=1e-6)
    same = sampler.sample(condition, torch.stack([noise[:, 0], 1 - noise[:, 1]], dim=1), temperature=1e-6)
    assert (cold - same).abs().max() < 1e-3  # a component's location, whatever the noise
    assert not torch.equal(cold, sampler.sample(condition, noise))


def test_frequencies_follow_probabilities():
    """Classes of the first step come up as often as the softmax says."""
    decoder = make_decoder(output=MU_LAW)
    sampler, batch = WaveNetSampler(decoder), 16
    condition = make_condition(decoder, 1, decoder.hold).expand(batch, -1, -1)
    first = []
    for seed in range(250):
        uniform = torch.from_numpy(np.random.default_rng(seed).uniform(1e-6, 1 - 1e-6, (batch, 1, 1, decoder.hold)))
        first.append(sampler.sample(condition, uniform.float())[:, 0, 0])
    counts = torch.bincount(decoder.output.level(torch.cat(first)), minlength=256)
    outputs = sampler.outputs(condition[:1], torch.zeros(1, 1, decoder.hold))
    expected = torch.softmax(outputs[0, :, 0], dim=0) * counts.sum()
    groups = expected.view(16, 16).sum(1)
    deviation = (counts.view(16, 16).sum(1) - groups) / groups.sqrt()
    assert deviation.abs().max() < 4


def test_noise_is_the_same_at_the_same_place(sampler):
    noise = Noise(sampler, seed=3)
    whole = noise.at(0, 10000)
    assert whole.min() > 0
    assert whole.max() < 1
    assert abs(whole.mean() - 0.5) < 0.01
    assert torch.equal(noise.at(4000, 300), whole[..., 4000:4300])
    assert torch.equal(noise.at(8192, 5), whole[..., 8192:8197])
    assert not torch.equal(Noise(sampler, seed=4).at(0, 10), whole[..., :10])


class TestStretches:
    """One recording drawn as many streams."""

    @pytest.fixture(scope="class")
    def drawn(self):
        decoder = make_decoder(output=MIXTURE, stack={**STACK, "n_layers": 4, "dilation_cycle": 4})
        with torch.no_grad():  # a voice that follows its condition more than its past, as a trained one does
            decoder.stack.entry.weight *= 0.05
        sampler = WaveNetSampler(decoder)
        condition, noise = make_condition(decoder, 1, 30 * decoder.hold), Noise(sampler)
        alone = sampler.sample(condition, noise.at(0, 30 * decoder.hold))
        return sampler, condition, noise, alone

    def test_nobody_hears_the_seam(self, drawn):
        sampler, condition, noise, alone = drawn
        cut = sample_in_stretches(sampler, condition, noise, length=8, warm_up=3, fade=40)
        assert cut.shape == alone.shape
        assert alone.std() > 0.01
        assert (cut - alone).abs().max() < 1e-3 * alone.std()

    @pytest.mark.parametrize("batch_size", [1, 2, 3])
    def test_any_batch_size(self, drawn, batch_size):
        sampler, condition, noise, _ = drawn
        options = {"length": 8, "warm_up": 3, "fade": 40}
        whole = sample_in_stretches(sampler, condition, noise, **options)
        assert torch.equal(sample_in_stretches(sampler, condition, noise, batch_size=batch_size, **options), whole)

    @pytest.mark.parametrize("n_frames", [1, 7, 8, 9, 17])
    def test_any_length(self, drawn, n_frames):
        sampler, condition, noise, alone = drawn
        cut = sample_in_stretches(sampler, condition[..., :n_frames], noise, length=8, warm_up=3, fade=40)
        assert cut.shape[-1] == n_frames * sampler.hold
        first = min(n_frames * sampler.hold, 5 * sampler.hold)
        assert torch.equal(cut[..., :first], alone[..., :first])

    def test_fades_where_streams_differ_least(self):
        from audiovq.speech.stretches import join

        time = np.arange(400, dtype=np.float32)
        old, new = np.sin(time / 9)[None], np.sin(time / 9 + 1)[None]
        old[:, 330:360] = new[:, 330:360] = 0  # both are silent there
        joined = join(old, new[:, 200:], begin=200, settled=100, fade=20)
        assert joined.shape == (1, 400)
        assert np.array_equal(joined[:, :330], old[:, :330])
        assert np.array_equal(joined[:, 360:], new[:, 360:])

    def test_warms_up_long_enough_by_itself(self, drawn):
        sampler, condition, noise, alone = drawn
        cut = sample_in_stretches(sampler, condition, noise, length=15, fade=40)
        assert (cut - alone).abs().max() < 1e-3 * alone.std()

    def test_what_does_not_fit(self, drawn):
        sampler, condition, noise, _ = drawn
        with pytest.raises(ValueError, match="do not fit"):
            sample_in_stretches(sampler, condition, noise, length=8, warm_up=8, fade=40)


def test_bad_arguments():
    decoder = make_decoder(output=MU_LAW)
    with pytest.raises(AudioVQError, match="bfloat16"):
        WaveNetSampler(decoder, weights="int3")
    with pytest.raises(AudioVQError, match="multiple of"):
        WaveNetSampler(make_decoder(output={"kind": "mu_law", "bits": 1}))
    sampler = WaveNetSampler(decoder)
    condition, noise = make_condition(decoder, 1, 240), make_noise(sampler, 1, 240)
    with pytest.raises(ValueError, match="noise of shape"):
        sampler.sample(condition, noise[..., :-1])
    with pytest.raises(ValueError, match="given values"):
        sampler.sample(condition, noise, given=torch.zeros(1, 2, 10))


SECOND_START = """
import logging, sys, torch
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from tests.speech.test_sampler import MU_LAW, make_condition, make_decoder, make_noise
from audiovq.wavenet.sampler import WaveNetSampler
decoder = make_decoder(output=MU_LAW)
sampler = WaveNetSampler(decoder)
values = sampler.sample(make_condition(decoder, 3, 240), make_noise(sampler, 3, 240))
outputs = sampler.outputs(make_condition(decoder, 3, 240), values)
before = torch.nn.functional.pad(values, (1, -1))
with torch.inference_mode():
    whole = decoder.stack(decoder.inputs(before), make_condition(decoder, 3, 240))
print("error", float((outputs - whole).abs().max()))
"""


def start(**environment) -> str:
    return subprocess.run(
        [sys.executable, "-c", SECOND_START],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


X86 = platform.machine() in ("x86_64", "AMD64")
WITHOUT_AVX512 = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+sse4.2,+avx,+avx2,+fma"} if X86 else {}


def test_compiles_once_and_says_so(tmp_path):
    """And where vectors have 8 floats, the network is the same."""
    cache = {"AUDIOVQ_CACHE": str(tmp_path), "NUMBA_CACHE_DIR": "", **WITHOUT_AVX512}
    first, second = start(**cache), start(**cache)
    assert "compiling the WaveNet sampler" in first
    assert "compiling" not in second
    assert list(tmp_path.glob("kernels/*/**/*.nbc"))
    assert float(first.split("error")[1]) < 1e-4
    assert float(second.split("error")[1]) < 1e-4


@pytest.mark.skipif(not X86, reason="vectors of 4 floats are what the other tests have where there is no x86")
def test_narrow_vectors(tmp_path):
    said = start(AUDIOVQ_CACHE=str(tmp_path), NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="+sse4.2")
    assert float(said.split("error")[1]) < 1e-4


def test_unwritable_cache(tmp_path, caplog):
    from audiovq.kernels import wavenet as wavenet_kernel

    (tmp_path / "file").write_text("a file where the cache folder should be")
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.delenv("NUMBA_CACHE_DIR", raising=False)
        patch.setenv("AUDIOVQ_CACHE", str(tmp_path / "file"))
        assert wavenet_kernel.cache_folder() is None
        doubled = wavenet_kernel.compiled(lambda x: 2 * x)
    assert doubled(21) == 42
    assert "compiled anew" in caplog.text


def test_each_band_has_its_temperature():
    """A cold band does not hear its noise, a warm one does; the plain way draws the same."""
    decoder = make_decoder(output=MIXTURE, n_bands=4, temperature=[1e-6, 1.0, 1.0, 1.0])
    sampler = WaveNetSampler(decoder)
    condition, noise = make_condition(decoder, 1, 240), make_noise(sampler, 1, 240)
    drawn, other = (
        sampler.sample(condition, uniform, temperature=decoder.temperature)
        for uniform in (noise, torch.stack([noise[:, 0], 1 - noise[:, 1]], dim=1))
    )
    moved = (drawn - other)[0, :, 0].abs()
    assert moved[0] < 1e-3
    assert (moved[1:] > 1e-3).all()
    plain = draw(decoder, condition, noise, WaveNetState(decoder, 1), decoder.temperature)
    torch.testing.assert_close(plain, drawn, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="for 4 sub-bands"):
        make_decoder(output=MIXTURE, n_bands=4, temperature=[0.5, 1.0])
