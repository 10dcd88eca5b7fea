"""Pitch tracks on tones that are known, and shifts that arrive where they should."""

from __future__ import annotations

import numpy as np
import pytest

from audiovq.conversion.f0 import median_pitch, semitones, track_pitch
from audiovq.conversion.psola import Shifter, shift_pitch

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


def test_semitones():
    assert semitones(2.0) == pytest.approx(12)
    assert semitones(0.5) == pytest.approx(-12)


@pytest.mark.parametrize("interval", [-7.0, -3.0, 2.5, 6.0])
def test_a_shift_moves_the_pitch_and_keeps_time_and_melody(interval):
    hz = 170 * 2 ** (0.25 * np.sin(np.linspace(0, 12, 2 * RATE)))
    samples = buzz(hz, 2.0)
    moved = shift_pitch(samples, interval)
    assert moved.shape == samples.shape
    before, after = track_pitch(samples), track_pitch(moved)
    both = (before > 0) & (after > 0)
    assert both.mean() > 0.85
    assert np.median(12 * np.log2(after[both] / before[both])) == pytest.approx(interval, abs=0.3)
    assert np.corrcoef(np.log(before[both]), np.log(after[both]))[0, 1] > 0.9


def test_a_shift_keeps_the_formant():
    """The strongest harmonic of the tone lies at 600 Hz; after a shift the strongest one is still near there."""
    moved = shift_pitch(buzz(150.0, 2.0), 5.0)
    spectrum = np.abs(np.fft.rfft(moved))
    frequency = np.fft.rfftfreq(len(moved), 1 / RATE)
    band = (frequency > 350) & (frequency < 1500)
    assert abs(frequency[band][spectrum[band].argmax()] - 600) < 110


def test_no_shift_gives_the_samples_back():
    samples = buzz(140.0)
    assert np.abs(shift_pitch(samples, 0.0) - samples)[200:-400].max() < 1e-5


@pytest.mark.parametrize("samples", [np.zeros(0), np.ones(1), np.zeros(3000), 1e-7 * np.ones(17)])
def test_nothing_to_shift(samples):
    assert shift_pitch(samples.astype(np.float32), 4.0).shape == samples.shape


@pytest.mark.parametrize("seconds", [0.1, 4.0, 4.15, 4.3, 9.0, 13.1])
@pytest.mark.parametrize("interval", [None, 0.0, 3.0])
def test_shifting_a_stream_does_not_depend_on_how_it_arrives(seconds, interval):
    samples = np.stack([buzz(130.0, seconds), buzz(130.0, seconds, seed=1)], axis=1)
    results = []
    for size in (700, 64_000, 1 << 20):
        shifter = Shifter(RATE, interval, 195.0)
        pieces = [shifter.push(samples[i : i + size]) for i in range(0, len(samples), size)]
        results.append(np.concatenate([*pieces, shifter.finish()]))
    assert all(result.shape == samples.shape for result in results)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    if seconds > 1:
        wanted = 195.0 if interval is None else 130.0 * 2 ** (interval / 12)
        assert median_pitch(track_pitch(results[0][:, 0])) == pytest.approx(wanted, rel=0.03)
    if interval == 0.0:
        assert np.abs(results[0] - samples).max() < 1e-6  # what a cross-fade rounds
