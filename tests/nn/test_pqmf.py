from __future__ import annotations

import pytest
import torch

from audiovq.wavenet.model import PQMF


@pytest.mark.parametrize("n_bands", [2, 4, 8])
def test_reconstruction_is_nearly_perfect(n_bands):
    bank = PQMF(n_bands)
    torch.manual_seed(0)
    waveform = torch.randn(1, 1, 512 * n_bands)
    error = bank.synthesis(bank.analysis(waveform)) - waveform
    inner = error[..., bank.order : -bank.order].square().mean()
    assert 10 * torch.log10(inner) < -60  # dB


def test_one_band_is_the_waveform():
    waveform = torch.randn(1, 1, 100)
    assert torch.equal(PQMF(1).synthesis(PQMF(1).analysis(waveform)), waveform)


def test_a_tone_keeps_its_amplitude_in_its_own_band():
    bank = PQMF(4)
    for band, frequency in enumerate((1000.0, 3000.0, 5000.0, 7000.0)):
        tone = torch.sin(2 * torch.pi * frequency * torch.arange(8000) / 16000 + 0.3)
        level = bank.analysis(tone[None, None])[0, :, 50:-50].square().mean(1).sqrt()
        assert level.argmax() == band
        assert level[band] == pytest.approx(0.5**0.5, rel=0.05)
        assert sorted(level.tolist())[-2] < 0.01


def test_bands_keep_the_energy():
    bank = PQMF(4)
    torch.manual_seed(0)
    waveform = torch.randn(1, 1, 40000)
    assert float(bank.analysis(waveform).square().sum() / waveform.square().sum()) == pytest.approx(0.25, rel=0.01)


def test_a_sample_depends_on_the_steps_it_says():
    bank = PQMF(4)
    bands = torch.randn(1, 4, 100, requires_grad=True)
    bank.synthesis(bands)[0, 0, 200:204].sum().backward()
    touched = (bands.grad[0].abs().sum(0) > 0).nonzero()[:, 0]
    assert 50 - bank.context_steps <= touched[0]
    assert touched[-1] <= 50 + bank.context_steps
