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
from audiovq.nn.distributions import compand
from audiovq.wavenet.model import WaveNetDecoder
from audiovq.wavenet.paper import PaperDecoder
from audiovq.wavenet.sampler import Noise, WaveNetSampler

STACK = {"channels": 32, "skip_channels": 32, "n_layers": 8, "dilation_cycle": 8, "kernel_size": 2}
CONDITION = 16  # channels
CONFIGS = {
    "mu-law": None,
    "one band": {"n_bands": 1, "band_gains": [1.0], "taps": 1},
    "sub-bands with prediction": {"taps": 3},
    # Widths that fill no vectors, three taps (so rings of two dilations), dilations that no block divides.
    "odd sizes": {
        "n_bands": 1,
        "band_gains": [1.0],
        "taps": 1,
        "stack": {"channels": 20, "skip_channels": 13, "n_layers": 7, "dilation_cycle": 5, "kernel_size": 3},
    },
}
MU_LAW, MIXTURE, BANDS = CONFIGS["mu-law"], CONFIGS["one band"], CONFIGS["sub-bands with prediction"]


def make_decoder(config) -> WaveNetDecoder | PaperDecoder:
    """With outputs that say something, instead of a start for training."""
    torch.manual_seed(0)
    if config is None:
        decoder = PaperDecoder(8, 4, 80, STACK, CONDITION, [2])
        decoder.stack.project.weight.data.normal_(0, 0.3)
        return decoder.eval()
    condition = {"channels": CONDITION, "dilations": [1]}
    settings = {"stack": STACK, "n_mixtures": 3, "kernel_size": 3, **config}
    decoder = WaveNetDecoder(8, 4, 4, 80, 1, condition, **settings)
    with torch.no_grad():
        project = decoder.stack.project
        project.weight.normal_(0, 0.3)
        coefficients = decoder.n_values * decoder.output.n_parameters
        project.weight[coefficients:] *= 0.05  # a prediction that stays bounded
        decoder.level.weight.normal_(0, 0.2)
    return decoder.eval()


def make_condition(decoder, batch: int, steps: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, CONDITION, steps // decoder.hold, generator=generator)


def make_extra(decoder, batch: int, steps: int) -> torch.Tensor | None:
    """What is added to the first layer, for a network that has such an input."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, decoder.stack.channels, steps, generator=generator) if decoder.has_extra else None


def make_noise(sampler, batch: int, steps: int) -> torch.Tensor:
    return torch.cat([Noise(sampler, seed).at(0, steps) for seed in range(batch)])


def network(decoder, values: torch.Tensor, condition: torch.Tensor, extra: torch.Tensor | None) -> torch.Tensor:
    """Outputs of the stack for all steps at once."""
    before = torch.nn.functional.pad(values, (1, -1))
    inputs = torch.cat([before, compand(before)], dim=1)
    return decoder.stack(inputs, condition, extra)


def random_values(decoder, batch: int, steps: int) -> torch.Tensor:
    return decoder.output.on_grid(0.3 * torch.randn(batch, decoder.n_values, steps))


@pytest.fixture(scope="module", params=CONFIGS)
def decoder(request) -> WaveNetDecoder | PaperDecoder:
    return make_decoder(CONFIGS[request.param])


@pytest.fixture(scope="module")
def sampler(decoder) -> WaveNetSampler:
    return WaveNetSampler(decoder)


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 6])
def test_cached_equals_whole(decoder, sampler, batch):
    """2,000 steps one by one, and all of them as convolutions."""
    steps = 2000
    condition, extra = make_condition(decoder, batch, steps), make_extra(decoder, batch, steps)
    values = random_values(decoder, batch, steps)
    whole = network(decoder, values, condition, extra)
    cached = sampler.outputs(condition, values, extra=extra)
    assert whole.std() > 0.1
    torch.testing.assert_close(cached, whole, atol=1e-4, rtol=0)


def plain_step(decoder, outputs, values, uniform, unit, temperature) -> torch.Tensor:
    """Values of one step (B, n_values), from outputs (B, out, T) and earlier values (B, n_values, T - 1)."""
    if decoder.level is None:
        return decoder.output.sample(outputs[..., -1:], uniform, temperature[0])
    values = torch.nn.functional.pad(values, (0, 1))
    for i in range(decoder.n_values):
        parameters, shift = decoder.parameters_and_shift(outputs, values)
        known = (shift[:, i, -1:], unit[:, i, None], temperature[i])
        values[:, i, -1:] = decoder.output.sample(parameters[:, :, i, -1:], uniform[:, :, i, None], *known)
    return values[..., -1]


def plain_loop(decoder, condition, noise, extra, temperature=(1.0, 1.0, 1.0, 1.0)) -> torch.Tensor:
    """Sample step by step with torch: values (B, n_values, T)."""
    state, projected = decoder.stack.initial_state(len(condition)), decoder.stack.project_condition(condition)
    units = None if decoder.level is None else decoder.band_units(condition)
    values = torch.zeros(len(condition), decoder.n_values, 1)
    outputs: list[torch.Tensor] = []
    for t in range(noise.shape[-1]):
        last, at = values[..., -1:], t // decoder.hold
        step = slice(t, t + 1)
        inputs = torch.cat([last, compand(last)], dim=1)
        added = None if extra is None else extra[..., step]
        outputs.append(decoder.stack.advance(inputs, projected[..., at : at + 1], state, added))
        recent = torch.cat(outputs[-decoder.taps - 1 :], dim=2)
        known = values[..., values.shape[-1] - recent.shape[-1] + 1 :]
        unit = None if units is None else units[..., at]
        drawn = plain_step(decoder, recent, known, noise[..., t], unit, temperature)
        values = torch.cat([values, drawn[..., None]], dim=2)
    return values[..., 1:]


@torch.inference_mode()
def test_samples_as_the_plain_loop(decoder, sampler):
    steps = 160
    condition, extra = make_condition(decoder, 2, steps), make_extra(decoder, 2, steps)
    noise = make_noise(sampler, 2, steps)
    plain = plain_loop(decoder, condition, noise, extra)
    fast = sampler.sample(condition, noise, extra=extra)
    # One value that is rounded to the other side changes all that come after it: they may part, but not at once.
    assert plain.std() > 0.001
    torch.testing.assert_close(fast[..., :40], plain[..., :40], atol=0.03 * float(plain.std()), rtol=0)


def test_batch_equals_alone(decoder, sampler):
    steps, batch = 240, 7
    condition, noise = make_condition(decoder, batch, steps), make_noise(sampler, batch, steps)
    extra = make_extra(decoder, batch, steps)
    together = sampler.sample(condition, noise, extra=extra)
    for b in range(batch):
        one = slice(b, b + 1)
        alone = sampler.sample(condition[one], noise[one], extra=None if extra is None else extra[one])
        assert torch.equal(together[one], alone)
    assert not torch.equal(together[0], together[1])


def test_pieces_equal_whole(decoder, sampler):
    steps = 8 * decoder.hold
    condition, noise = make_condition(decoder, 2, steps), make_noise(sampler, 2, steps)
    extra = make_extra(decoder, 2, steps)
    whole = sampler.sample(condition, noise, extra=extra)
    state, pieces, start = sampler.state(2), [], 0
    for n in (1, 0, 3, 4):
        part = slice(start * decoder.hold, (start + n) * decoder.hold)
        more = None if extra is None else extra[..., part]
        pieces.append(sampler.sample(condition[..., start : start + n], noise[..., part], state, extra=more))
        start += n
    assert torch.equal(torch.cat(pieces, dim=2), whole)


def test_continues_a_prompt(decoder, sampler):
    """What was sampled, given back as a prompt, goes on as it went on."""
    steps = 240
    condition, noise = make_condition(decoder, 1, steps), make_noise(sampler, 1, steps)
    extra = make_extra(decoder, 1, steps)
    sampled = sampler.sample(condition, noise, extra=extra)
    again = sampler.sample(condition, noise, given=sampled[..., :100], extra=extra)
    assert torch.equal(again, sampled)
    other = sampler.sample(condition, noise, given=-sampled[..., :100], extra=extra)
    assert not torch.equal(other[..., 100:], sampled[..., 100:])


def test_temperature():
    decoder = make_decoder(MIXTURE)
    sampler = WaveNetSampler(decoder)
    condition, noise = make_condition(decoder, 1, 240), make_noise(sampler, 1, 240)
    extra = make_extra(decoder, 1, 240)
    cold = sampler.sample(condition, noise, temperature=1e-6, extra=extra)
    turned = torch.stack([noise[:, 0], 1 - noise[:, 1]], dim=1)
    same = sampler.sample(condition, turned, temperature=1e-6, extra=extra)
    assert (cold - same).abs().max() < 1e-3  # a component's location, whatever the noise
    assert not torch.equal(cold, sampler.sample(condition, noise, extra=extra))


def test_frequencies_follow_probabilities():
    """Classes of the first step come up as often as the softmax says."""
    decoder = make_decoder(MU_LAW)
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


def test_bad_arguments():
    decoder = make_decoder(MU_LAW)
    with pytest.raises(AudioVQError, match="multiple of"):
        WaveNetSampler(PaperDecoder(8, 4, 80, STACK, CONDITION, [2], bits=1))
    with pytest.raises(AudioVQError, match="two taps"):
        WaveNetSampler(PaperDecoder(8, 4, 80, {**STACK, "kernel_size": 1}, CONDITION, [2]))
    sampler = WaveNetSampler(decoder)
    condition, noise = make_condition(decoder, 1, 240), make_noise(sampler, 1, 240)
    with pytest.raises(ValueError, match="noise of shape"):
        sampler.sample(condition, noise[..., :-1])
    with pytest.raises(ValueError, match="given values"):
        sampler.sample(condition, noise, given=torch.zeros(1, 2, 10))
    with pytest.raises(ValueError, match="extra input"):
        sampler.sample(condition, noise, extra=torch.zeros(1, 32, 240))


SECOND_START = """
import logging, sys, torch
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from tests.wavenet.test_sampler import MU_LAW, make_condition, make_decoder, make_noise, network
from audiovq.wavenet.sampler import WaveNetSampler
decoder = make_decoder(MU_LAW)
sampler = WaveNetSampler(decoder)
condition = make_condition(decoder, 3, 240)
values = sampler.sample(condition, make_noise(sampler, 3, 240))
outputs = sampler.outputs(condition, values)
with torch.inference_mode():
    whole = network(decoder, values, condition, None)
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
NARROW = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+sse4.2"} if X86 else {}


def test_compiles_once_and_says_so(tmp_path):
    """And where vectors have 8 floats, the network is the same."""
    cache = {"AUDIOVQ_CACHE": str(tmp_path), "NUMBA_CACHE_DIR": "", **WITHOUT_AVX512}
    first, second = start(**cache), start(**cache)
    assert "compiling the WaveNet sampler" in first
    assert "compiling" not in second
    assert list(tmp_path.glob("kernels/*/**/*.nbc"))
    assert float(first.split("error")[1]) < 1e-4
    assert float(second.split("error")[1]) < 1e-4


def test_narrow_vectors(tmp_path):
    """Vectors of 4 floats, as they are anyway where the processor is no x86."""
    said = start(AUDIOVQ_CACHE=str(tmp_path), **NARROW)
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


@torch.inference_mode()
def test_each_band_has_its_temperature():
    """A cold band does not depend on its noise, a warm one does; the plain way samples the same."""
    decoder = make_decoder({**BANDS, "temperature": [1e-6, 1.0, 1.0, 1.0]})
    sampler = WaveNetSampler(decoder)
    condition, noise = make_condition(decoder, 1, 240), make_noise(sampler, 1, 240)
    extra = make_extra(decoder, 1, 240)
    sampled, other = (
        sampler.sample(condition, uniform, temperature=decoder.temperature, extra=extra)
        for uniform in (noise, torch.stack([noise[:, 0], 1 - noise[:, 1]], dim=1))
    )
    moved = (sampled - other)[0, :, 0].abs()
    assert moved[0] < 1e-3
    assert (moved[1:] > 1e-3).all()
    plain = plain_loop(decoder, condition[..., :4], noise[..., : 4 * decoder.hold], extra, decoder.temperature)
    torch.testing.assert_close(plain, sampled[..., : plain.shape[-1]], atol=1e-3, rtol=0)
