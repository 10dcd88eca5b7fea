"""The loss on fundamental frequency: it tells melodies apart, at any height when asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiovq.training.melody import MelodyLoss

SECONDS = 1.5
TIME = np.arange(round(16000 * SECONDS)) / 16000


def voice(semitones: np.ndarray | float, base: float = 120.0) -> torch.Tensor:
    """Harmonics of a pitch that moves by ``semitones``, falling by 6 dB an octave."""
    pitch = base * 2 ** (np.broadcast_to(semitones, TIME.shape) / 12)
    phase = 2 * np.pi * np.cumsum(pitch) / 16000
    tone = sum(np.sin(k * phase) / k for k in range(1, 15))
    return torch.from_numpy((0.1 * tone).astype(np.float32))[None, None]


RISING = 6 * TIME / SECONDS
FALLING = -6 * TIME / SECONDS


def test_the_same_melody_is_best_and_another_is_worse():
    loss = MelodyLoss()
    target = voice(RISING)
    same = float(loss(voice(RISING), target))
    assert float(loss(3 * voice(RISING), target)) == pytest.approx(same, abs=1e-3)
    assert float(loss(voice(RISING + 1), target)) > same + 1
    assert float(loss(voice(0.0), target)) > same + 1


@pytest.mark.parametrize("shift", [-7, 0, 5, 9])
def test_height_does_not_matter_when_transposed(shift):
    loss = MelodyLoss()
    target = voice(RISING)
    same = float(loss(voice(RISING), target))
    moved = float(loss(voice(RISING + shift), target, transposed=True))
    assert moved == pytest.approx(same, abs=0.7)
    assert float(loss(voice(FALLING + shift), target, transposed=True)) > moved + 1


def test_gradient_is_finite_and_silence_costs_nothing():
    loss = MelodyLoss()
    decoded = torch.zeros(2, 1, 16000, requires_grad=True)
    value = loss(decoded, torch.cat([voice(0.0), torch.zeros_like(voice(0.0))])[..., :16000], transposed=True)
    value.backward()
    assert torch.isfinite(decoded.grad).all()
    assert float(loss(decoded.detach(), torch.zeros(2, 1, 16000))) == 0


def test_following_the_gradient_finds_the_pitch():
    """From noise, a few steps of descent bring the loss down: the autocorrelation pulls."""
    loss = MelodyLoss()
    target = voice(RISING)
    waveform = (0.05 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))).requires_grad_(True)
    before = float(loss(waveform, target))
    optimiser = torch.optim.Adam([waveform], 5e-3)
    for _ in range(15):
        optimiser.zero_grad()
        value = loss(waveform, target)
        value.backward()
        optimiser.step()
    assert float(value) < before - 1
