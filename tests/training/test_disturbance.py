from __future__ import annotations

import numpy as np
import pytest
import torch

from audiovq.training.losses import Disturbance, SpectralLoss, stft

RATE = 16000


@pytest.fixture
def waveform(speech):
    return speech[None, : 3 * RATE].float()


def squared(waveform: torch.Tensor) -> torch.Tensor:
    window = torch.hann_window(512)
    spectrum = stft(waveform, window / window.square().sum().sqrt(), 128)
    return spectrum.real.square() + spectrum.imag.square()


def test_disturbance_orders_noisy_speech_as_pesq_does(waveform):
    pesq = pytest.importorskip("pesq").pesq
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(waveform.shape, generator=generator) * waveform.std()
    low = torch.nn.functional.avg_pool1d(noise, 7, 1, 3)
    added = [size * noise for size in (0.02, 0.1, 0.5)] + [size * low for size in (0.2, 1.0)]
    versions = [waveform + one for one in added]
    worth = [float(Disturbance()(squared(one), squared(waveform))) for one in versions]
    scores = [pesq(RATE, waveform[0].numpy(), one[0].numpy(), "wb") for one in versions]
    assert np.argsort(worth).tolist() == np.argsort(-np.array(scores)).tolist()


def test_disturbance_does_not_depend_on_the_level_of_both(waveform):
    disturbance = Disturbance()
    other = waveform + 0.05 * waveform.std() * torch.randn(waveform.shape)
    loud, quiet = (disturbance(squared(gain * other), squared(gain * waveform)) for gain in (1.0, 0.1))
    assert float(loud) == pytest.approx(float(quiet), rel=1e-3)
    assert float(disturbance(squared(waveform), squared(waveform))) < 0.01


def test_what_is_added_costs_more_than_what_is_missing(waveform):
    disturbance, whole = Disturbance(), squared(waveform)
    part = whole.clone()
    part[:, 40:80] *= 0.01
    assert float(disturbance(whole, part)) > 1.2 * float(disturbance(part, whole))


def test_disturbance_has_finite_gradients_on_silence(waveform):
    for target in (torch.zeros_like(waveform), waveform):
        decoded = torch.zeros_like(waveform).requires_grad_()
        Disturbance()(squared(decoded), squared(target)).backward()
        assert torch.isfinite(decoded.grad).all()


def test_harmonics_are_asked_for_the_phase_of_low_bins_of_voiced_frames_alone():
    time = torch.arange(RATE) / RATE
    target, items = torch.sin(2 * torch.pi * 200 * time)[None] * 0.1, torch.tensor([0])
    high = 0.1 * torch.sin(2 * torch.pi * 3000 * time)[None]
    late = torch.sin(2 * torch.pi * 200 * time + 1.0)[None] * 0.1
    loss, voiced = SpectralLoss(), torch.ones(1, 50, dtype=torch.bool)

    def harmonics(decoded, voiced):
        return float(loss(decoded, target, low=items, voiced=voiced)["harmonics"])

    same = harmonics(target, voiced)
    assert harmonics(target + high, voiced) < same + 0.01
    assert harmonics(late, voiced) > same + 0.02
    half = voiced.clone()
    half[:, 25:] = False
    half_late = torch.cat([target[:, : RATE // 2], late[:, RATE // 2 :]], dim=1)
    assert harmonics(half_late, half) < harmonics(half_late, voiced) / 2
