from __future__ import annotations

import pytest
import torch

from audiovq.codec.encoder import SpeakerEncoder


@pytest.fixture
def speaker_encoder():
    torch.manual_seed(0)
    return SpeakerEncoder(dim=6, levels=16, channels=16, dilations=[1]).eval()


@pytest.mark.parametrize("n_samples", [1, 100, 16000, 16123])
def test_any_length_gives_one_quantized_vector(speaker_encoder, speech, n_samples):
    waveform = speech[None, None, :n_samples]
    codes = speaker_encoder.encode(waveform)
    assert codes.shape == (1, 6)
    assert 0 <= codes.min() <= codes.max() < 16
    assert torch.equal(speaker_encoder.decode(codes), speaker_encoder(waveform))


def test_loudness_is_not_the_voice(speaker_encoder, speech):
    waveform = speech[None, None, :16000]
    loud, quiet = speaker_encoder.features(waveform), speaker_encoder.features(0.25 * waveform)
    other = speaker_encoder.features(torch.sin(torch.arange(16000) / 10.0)[None, None])
    assert (loud - quiet).norm() < 0.3 * (loud - other).norm()


def test_gradient_passes_the_rounding(speaker_encoder, speech):
    speaker_encoder(speech[None, None, :16000]).sum().backward()
    assert speaker_encoder.project.weight.grad.abs().sum() > 0


def test_normalised_vectors_do_not_saturate():
    """However large the projection grows, values between the outermost levels stay in use."""
    torch.manual_seed(0)
    encoder = SpeakerEncoder(dim=32, levels=16, channels=16, normalised=True)
    with torch.no_grad():
        encoder.project.weight.mul_(1000)
    codes = encoder.encode(torch.randn(4, 1, 8000))
    assert ((codes > 0) & (codes < 15)).float().mean() > 0.5
