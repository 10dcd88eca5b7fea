from __future__ import annotations

import pytest
import torch

from audiovq.training.losses import (
    EnvelopeCorrelationLoss,
    MultiResolutionDiscriminator,
    SpeakerMeans,
    SpectralLoss,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
)


@pytest.fixture
def waveform(speech):
    return speech[None, None, :16000]


def distances(decoded, target):
    """Of waveforms (1, 1, T)."""
    terms = SpectralLoss()(decoded[0], target[0], torch.tensor([0]))
    return {name: float(value) for name, value in terms.items()}


def noise_like(waveform):
    return torch.randn(waveform.shape, generator=torch.Generator().manual_seed(0))


def test_distances_are_nothing_for_the_same_and_grow_with_noise(waveform):
    found = [distances(waveform + level * noise_like(waveform), waveform) for level in (0, 0.01, 0.1, 1.0)]
    for name in ("mel", "magnitude", "complex"):
        values = [one[name] for one in found]
        assert values[0] < 2e-3
        assert values == sorted(values)
        assert values[-1] > 5 * values[1]


def test_the_complex_distance_alone_depends_on_phase(waveform):
    shifted = distances(torch.roll(waveform, 2, dims=-1), waveform)
    noisy = distances(waveform + 0.3 * noise_like(waveform), waveform)
    assert shifted["mel"] < 0.3 * noisy["mel"]
    assert shifted["magnitude"] < 0.3 * noisy["magnitude"]
    assert shifted["complex"] > noisy["complex"]


def test_losses_are_finite_on_silence(waveform):
    silence = torch.zeros_like(waveform, requires_grad=True)
    for target in (waveform, torch.zeros_like(waveform)):
        loss = sum(SpectralLoss()(silence[0], target[0], torch.tensor([0])).values())
        (gradient,) = torch.autograd.grad(loss, silence)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_discriminator_learns_to_tell_noise_from_speech(waveform):
    torch.manual_seed(0)
    discriminator = MultiResolutionDiscriminator((256, 128), (64, 32), channels=4)
    optimizer = torch.optim.Adam(discriminator.parameters(), 3e-3)
    fake = 0.3 * torch.randn(waveform.shape)
    losses = []
    for _ in range(25):
        real_scores, fake_scores = discriminator(waveform)[0], discriminator(fake)[0]
        loss = discriminator_loss(real_scores, fake_scores)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert generator_loss(discriminator(fake)[0]) > generator_loss(discriminator(waveform)[0])


def test_feature_matching_is_zero_for_the_same_features():
    features = [[torch.randn(2, 3, generator=torch.Generator().manual_seed(0))]]
    assert feature_matching_loss(features, features) == 0
    assert feature_matching_loss(features, [[features[0][0] + 1]]) > 0


def test_envelope_loss_agrees_with_short_time_intelligibility():
    pystoi = pytest.importorskip("pystoi")
    loss = EnvelopeCorrelationLoss()
    generator = torch.Generator().manual_seed(1)
    syllables = torch.sin(torch.linspace(0, 40, 32000)).clamp_min(0.05)
    target = torch.randn(1, 1, 32000, generator=generator) * syllables
    noise = torch.randn(1, 1, 32000, generator=generator)
    ours, theirs = [], []
    for level in (0.0, 0.1, 0.5, 2.0):
        heard = target + level * noise
        ours.append(1 - float(loss(heard, target)))
        theirs.append(float(pystoi.stoi(target[0, 0].numpy(), heard[0, 0].numpy(), 16000)))
    assert ours[0] == pytest.approx(1, abs=1e-3)
    assert ours == sorted(ours, reverse=True)
    assert ours == pytest.approx(theirs, abs=0.03)


def test_envelope_loss_has_finite_gradients_on_silence_and_ignores_level():
    loss = EnvelopeCorrelationLoss()
    target = torch.randn(2, 1, 16000, generator=torch.Generator().manual_seed(2))
    assert float(loss(0.1 * target, target)) < 1e-3
    for reference in (target, torch.zeros_like(target)):
        decoded = torch.zeros_like(target, requires_grad=True)
        loss(decoded, reference).backward()
        assert torch.isfinite(decoded.grad).all()


def test_what_codes_tell_of_the_speaker_falls():
    """Vectors of speakers lie about places of their own; the loss brings these together, and leaves the rest."""
    torch.manual_seed(0)
    places, own = torch.nn.Parameter(3 * torch.randn(5, 4)), SpeakerMeans(4, 8)
    optimizer, noise = torch.optim.SGD([places], 1.0), torch.randn(5, 4, 50)
    shares = []
    for step in range(200):
        speaker = (torch.arange(3) + step) % 5
        latents = places[speaker][..., None] + noise[speaker]
        loss = own(latents, latents.detach(), torch.ones(3, 50, dtype=torch.bool), speaker)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shares.append(float(loss.detach()))
    assert shares[10] > 0.3
    assert shares[-1] < 0.05


def test_silence_tells_nothing_of_the_speaker():
    own = SpeakerMeans(4, 8)
    latents, speaker = torch.randn(2, 4, 50, requires_grad=True), torch.tensor([0, 1])
    for active in (torch.zeros(2, 50, dtype=torch.bool), torch.tensor([[False], [True]]).expand(2, 50)):
        loss = own(latents, latents.detach(), active, speaker)
        assert float(loss) == 0
    assert own.seen.tolist()[:2] == [0, 1]
    loss.backward()
    assert not latents.grad.any()
