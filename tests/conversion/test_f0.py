"""Pitch tracks of tones whose pitch is known."""

from __future__ import annotations

import numpy as np
import pytest

from audiovq.conversion.pitch import median_pitch, track_pitch

RATE = 16000


def buzz(hz, seconds=1.0, rate=RATE, seed=0):
    """A voice-like tone whose frequency is ``hz``, a number or one for each sample; with a formant and some noise."""
    n = round(seconds * rate)
    phase = np.cumsum(np.broadcast_to(np.asarray(hz, float), n)) * 2 * np.pi / rate
    tone = sum(np.sin(k * phase) / k * (3 if k == 4 else 1) for k in range(1, 15))
    noise = np.random.default_rng(seed).standard_normal(n)
    return (0.1 * tone + 0.001 * noise).astype(np.float32)


@pytest.mark.parametrize("hz", [70.0, 110.0, 200.0, 333.0, 450.0])
@pytest.mark.parametrize("rate", [16000, 22050])
def test_a_steady_tone(hz, rate):
    track = track_pitch(buzz(hz, rate=rate), rate)
    assert len(track) == -(-rate // round(rate / 100))
    assert (track[5:-5] > 0).all()
    assert np.abs(12 * np.log2(track[5:-5] / hz)).max() < 0.2
    assert median_pitch(track) == pytest.approx(hz, rel=0.005)


def test_a_glide_is_followed():
    hz = 120 * 2 ** np.linspace(0, 1, RATE)
    track = track_pitch(buzz(hz))
    assert np.abs(12 * np.log2(track[5:-5] / hz[::160][5:-5])).max() < 0.5


def test_noise_and_silence_have_no_pitch():
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    assert (track_pitch(noise) > 0).mean() < 0.1
    assert not track_pitch(np.zeros(RATE, np.float32)).any()
    assert len(track_pitch(np.zeros(0, np.float32))) == 0
    assert median_pitch(track_pitch(np.zeros(RATE, np.float32))) is None


def test_pauses_are_unvoiced():
    samples = np.concatenate([buzz(150, 0.5), np.zeros(RATE // 2, np.float32), buzz(150, 0.5)])
    voiced = track_pitch(samples) > 0
    assert voiced[5:45].all()
    assert not voiced[58:92].any()
    assert voiced[105:145].all()
