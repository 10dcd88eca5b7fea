"""The paper's VQ-VAE for speech: causal, sampled as the network says, the same by the seed, kept on disk as it is."""

import pytest
import torch

from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.wavenet.paper import PaperDecoder, PaperVQVAE
from audiovq.wavenet.sampler import Noise, WaveNetSampler

HOP = 64
STACK = {"channels": 12, "skip_channels": 10, "n_layers": 6, "dilation_cycle": 4, "kernel_size": 2}
CONFIG = {
    "encoder": {
        "latent_dim": 6,
        "channels": [8, 8, 8, 8, 8, 12],
        "strides": [2] * 6,
        "kernel_sizes": [4] * 6,
        "dilations": [[]] * 6,
    },
    "quantizer": {"codebook_size": 16, "codebook": "gradient", "restart_below": 0, "init_after": None},
    "decoder": {"stack": STACK, "channels": 10, "upsample": [2, 2]},
    "speakers": ["corpus/a", "corpus/b", "corpus/c"],
}


def make_model(seed: int = 0) -> PaperVQVAE:
    """Untrained, with outputs that matter."""
    torch.manual_seed(seed)
    model = PaperVQVAE(**CONFIG).eval()
    with torch.no_grad():
        model.decoder.stack.project.weight.normal_(0, 0.5)
    return model


def waveforms(batch: int = 2, n_frames: int = 12) -> torch.Tensor:
    return 0.3 * torch.randn(batch, 1, n_frames * HOP, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> PaperVQVAE:
    return make_model()


@torch.no_grad()
def test_shapes(model):
    waveform, speaker = waveforms(), torch.tensor([0, 2])
    nll, quantized = model(waveform, speaker)
    assert nll.shape == waveform.shape
    assert quantized.codes.shape == (2, 1, 12)
    assert torch.equal(model.encode(waveform), quantized.codes)
    assert model.encode(waveform[..., : 11 * HOP + 1]).shape == (2, 1, 12)
    assert model.decoder.condition(quantized.latents, speaker).shape == (2, 10, 12 * HOP // model.decoder.hold)
    assert model.convert(waveform[..., :700], speaker).shape == (2, 1, 700)


@torch.no_grad()
def test_a_sample_depends_on_earlier_ones_alone(model):
    values = model.decoder.output.on_grid(waveforms(1))
    condition = model.decoder.condition(torch.randn(1, 6, 12), torch.tensor([1]))
    before = model.decoder.logits(values, condition)
    values[..., 300] = -values[..., 300] + 0.1
    changed = (model.decoder.logits(values, condition) != before).any(1)[0]
    assert not changed[:301].any()
    assert changed[301:310].any()


def test_losses_have_gradients_everywhere():
    model = make_model().train()
    nll, quantized = model(waveforms(3), torch.tensor([0, 1, 2]))
    (nll.mean() + quantized.loss).backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not unused


def test_steps_on_one_batch_lower_the_loss():
    model = make_model().train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(6):
        nll, quantized = model(waveforms(), torch.tensor([0, 1]))
        loss = nll.mean() + quantized.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    assert losses[-1] < losses[0] - 0.05


@torch.no_grad()
def test_cached_evaluation_equals_teacher_forcing(model):
    values = model.decoder.output.on_grid(waveforms())
    condition = model.decoder.condition(torch.randn(2, 6, 12), torch.tensor([0, 1]))
    whole = model.decoder.logits(values, condition)
    cached = WaveNetSampler(model.decoder).outputs(condition, values)
    assert whole.std() > 0.1
    torch.testing.assert_close(cached, whole, atol=1e-4, rtol=0)


@torch.no_grad()
def test_samples_are_those_of_the_distribution_at_each_step(model):
    """Given what was sampled before, PyTorch samples the same value from the same random numbers."""
    codes, speaker = model.encode(waveforms(1)), torch.tensor([1])
    values = model.decode(codes, speaker, seed=3, temperature=0.8)
    noise = Noise(WaveNetSampler(model.decoder), 3).at(0, 12 * HOP)
    logits = model.decoder.logits(values, model.decoder.condition(model.quantizer.decode(codes), speaker))
    expected = model.decoder.output.sample(logits.unsqueeze(2), noise, 0.8)
    assert values.std() > 0.01
    # A random number at the border between two levels may choose the other one.
    assert ((values - expected).abs() < 1e-4).float().mean() > 0.99


def test_samples_depend_on_seed_codes_and_speaker_alone(model):
    codes, speaker = model.encode(waveforms()), torch.tensor([0, 1])
    first = model.decode(codes, speaker, seed=1)
    assert torch.equal(model.decode(codes, speaker, seed=1), first)
    assert torch.equal(model.decode(codes[1:], speaker[1:], seed=1), first[1:])
    assert not torch.equal(model.decode(codes, speaker, seed=2), first)
    assert not torch.equal(model.decode(codes, speaker.flip(0), seed=1), first)


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    save_weights(model, tmp_path, torch.float32)
    loaded = PaperVQVAE.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert loaded.number("corpus/c") == 2
    waveform, speaker = waveforms(1), torch.tensor([2])
    assert torch.equal(loaded.convert(waveform, speaker, seed=4), model.convert(waveform, speaker, seed=4))


def test_wrong_names_and_settings_are_refused(model, tmp_path):
    with pytest.raises(AudioVQError, match="no speaker 'corpus/d' among the 3"):
        model.number("corpus/d")
    with pytest.raises(AudioVQError, match="no model"):
        PaperVQVAE.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no multiple of the upsampling"):
        PaperDecoder(6, 3, HOP, STACK, upsample=[3])
