"""Changed voices: as far as asked, in time with the original, the same again from the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from audiovq.data.crops import CropDataset
from audiovq.data.overlap import shift_by_overlap
from audiovq.data.perturb import Perturbation, reshape
from audiovq.speech.pitch import median_pitch, track_pitch
from tests.data.conftest import make_utterance, voice


def resonant(pitch: float, formant: float, seconds: float = 1.5) -> np.ndarray:
    """A glottal buzz with scattered phases through one resonance, both in Hz."""
    time = np.arange(round(seconds * 16000)) / 16000
    partials = np.arange(1, int(7500 / pitch)) * pitch
    weights = (1 / (1 + ((partials - formant) / 400) ** 2) + 0.01) / np.sqrt(partials / pitch)
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, len(partials))
    return (0.05 * (np.cos(2 * np.pi * np.outer(time, partials) + phases) @ weights)).astype(np.float32)


def peak(samples: np.ndarray) -> float:
    """Where the smoothed spectrum is highest, Hz."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / 16000)
    grid = np.arange(300, 6000, 10)
    return float(grid[np.argmax([(power * np.exp(-(((hertz - g) / 150) ** 2))).sum() for g in grid])])


def test_nothing_asked_changes_nothing():
    samples = voice(1.0)
    np.testing.assert_allclose(reshape(samples, 0.0, 1.0), samples, atol=1e-5)


@pytest.mark.parametrize("semitones", [-7.0, -3.0, 4.0, 8.0])
def test_pitch_moves_and_formants_stay(semitones):
    samples = resonant(150.0, 1500.0)
    moved = reshape(samples, semitones, 1.0)
    lags = np.arange(30, 190)
    alike = np.array([np.corrcoef(moved[2000:20000], moved[2000 + n : 20000 + n])[0, 1] for n in lags])
    period = 16000 / 150 / 2 ** (semitones / 12)
    assert alike[np.abs(lags - period) < 1].max() > 0.85 > 0.3 > alike[np.abs(lags - 0.75 * period) < 1].max()
    assert peak(moved) == pytest.approx(1500.0, rel=0.25)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_formants_move_and_pitch_stays(factor):
    samples = resonant(110.0, 1500.0)
    moved = reshape(samples, 0.0, factor)
    assert peak(moved) == pytest.approx(1500.0 * factor, rel=0.12)
    assert median_pitch(track_pitch(moved)) == pytest.approx(110.0, rel=0.01)


@pytest.mark.parametrize("ratio", [0.63, 0.8, 1.0, 1.3, 1.6])
def test_overlap_keeps_time(ratio):
    """A click train's loud part starts and ends where it did, within the tolerance and a window's slope."""
    samples = np.zeros(16000, np.float32)
    samples[4000:12000] = voice(0.5)
    moved = shift_by_overlap(samples, ratio)
    assert moved.shape == samples.shape
    energy = np.convolve(np.square(moved), np.ones(160), "same")
    loud = np.flatnonzero(energy > 0.05 * energy.max())
    assert abs(loud[0] - 4000) < 700
    assert abs(loud[-1] - 12000) < 700


def test_same_seed_same_samples_and_same_loudness():
    samples, perturbation = voice(0.96), Perturbation(pitch_share=0.5)
    moved = set()
    for seed in range(8):
        one, flag = perturbation(samples, np.random.default_rng(seed))
        again, _ = perturbation(samples, np.random.default_rng(seed))
        np.testing.assert_array_equal(one, again)
        assert one.shape == samples.shape
        assert one.dtype == np.float32
        assert np.sqrt(np.mean(one**2)) == pytest.approx(np.sqrt(np.mean(samples**2)), rel=0.05)
        assert not np.allclose(one, samples, atol=1e-3)
        moved.add(flag)
    assert moved == {True, False}


@pytest.mark.parametrize("samples", [np.zeros(15360), np.full(15360, 0.5), np.eye(1, 15360)[0], np.zeros(40)])
def test_odd_signals_stay_finite(samples):
    for seed in range(4):
        out, _ = Perturbation(pitch_share=0.5)(samples.astype(np.float32), np.random.default_rng(seed))
        assert out.shape == samples.shape
        assert np.isfinite(out).all()


def test_crops_come_with_their_changed_voice():
    utterances = [make_utterance(voice(2.0, seed=i), id=str(i), speaker=f"s{i % 2}") for i in range(4)]
    plain = CropDataset(utterances, 8000, 8000, seed=3, gain_db=(-12.0, 6.0))
    changed = CropDataset(utterances, 8000, 8000, seed=3, gain_db=(-12.0, 6.0), perturbation=Perturbation())
    for index in (0, 5):
        one, other = plain[index], changed[index]
        np.testing.assert_array_equal(one["waveform"], other["waveform"])
        np.testing.assert_array_equal(one["other"], other["other"])
        np.testing.assert_array_equal(other["perturbed"], changed[index]["perturbed"])
        assert other["perturbed"].shape == other["waveform"].shape
        assert "perturbed" not in one
