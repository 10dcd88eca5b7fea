import numpy as np
import pytest
import torch

from audiovq.codec.decoder import harmonic_source
from audiovq.codec.signal import TOP_HZ, HarmonicSource, noise_table, smooth_noise

RATE, HOP = 16000, 320


def track(seed, n=60):
    """Frames of a fundamental that moves, with unvoiced stretches."""
    rng = np.random.default_rng(seed)
    hz = 120 * 2 ** (rng.standard_normal(n).cumsum() / 40)
    return np.where(np.sin(np.arange(n) / 5 + seed) > -0.4, hz, 0.0)


@pytest.mark.parametrize("size", [1, 7, 30])
def test_pieces_of_any_size_give_the_same_bits(size):
    f0 = track(1)
    whole = HarmonicSource(HOP, RATE).next(f0, 0.0)
    source, pieces = HarmonicSource(HOP, RATE), []
    for i in range(0, len(f0), size):
        after = f0[i + size] if i + size < len(f0) else 0.0
        pieces.append(source.next(f0[i : i + size], after))
    assert np.array_equal(np.concatenate(pieces), whole)


def test_training_and_streaming_make_the_same_signal():
    f0 = track(2)
    streamed = HarmonicSource(HOP, RATE).next(f0, 0.0)
    batched = harmonic_source(torch.from_numpy(f0)[None], HOP, RATE)[0].numpy()
    assert np.abs(streamed - batched).max() < 2e-3 * np.abs(streamed).max()


def test_unvoiced_frames_are_silent_and_voiced_ones_have_unit_power():
    f0 = np.r_[np.zeros(10), np.full(20, 137.0), np.zeros(10)]
    frames = HarmonicSource(HOP, RATE).next(f0, 0.0).reshape(-1, HOP)
    assert not frames[f0 == 0].any()
    assert abs(np.square(frames[12:28]).mean() - 1) < 0.1


@pytest.mark.parametrize("hz", [61.0, 180.0, 395.0, 600.0])
def test_all_harmonics_up_to_the_top_and_none_above(hz):
    samples = HarmonicSource(HOP, RATE).next(np.full(60, hz), 0.0)[1600:-1600]
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) / len(samples)
    frequency = np.fft.rfftfreq(len(samples), 1 / RATE)
    peaks = [spectrum[np.abs(frequency - k * hz) < 5].max() for k in range(1, int(TOP_HZ / hz))]
    assert min(peaks) > 0.7 * max(peaks)
    between = np.abs((frequency / hz + 0.5) % 1 - 0.5) > 0.3
    assert spectrum[between & (frequency > hz / 2)].max() < 0.01 * max(peaks)
    assert spectrum[frequency > TOP_HZ + 15].max() < 0.01 * max(peaks)


def test_voicing_begins_and_ends_without_a_click():
    f0 = np.r_[np.zeros(5), np.full(20, 110.0), np.zeros(5)]
    samples = HarmonicSource(HOP, RATE).next(f0, 0.0)
    first, last = 5 * HOP, 25 * HOP
    assert abs(samples[first]) < 0.01 * np.abs(samples).max()
    assert abs(samples[last - 1]) < 0.01 * np.abs(samples).max()


def test_a_gliding_fundamental_has_no_jumps():
    """Harmonics fade in and out at the top: between pulses the signal stays smooth while their number changes."""
    f0 = np.linspace(100, 140, 80)
    samples = HarmonicSource(HOP, RATE).next(f0, 0.0)[HOP:-HOP]
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    frequency = np.fft.rfftfreq(len(samples), 1 / RATE)
    assert spectrum[frequency > TOP_HZ + 50].max() < 5e-3 * spectrum.max()


def test_the_noise_table_is_white_and_always_the_same():
    table = noise_table(64, 80)
    assert abs(table.std() - 1) < 0.05
    assert abs(np.corrcoef(table[1:], table[:-1])[0, 1]) < 0.05
    whole = noise_table(2048, 80)
    np.testing.assert_array_equal(whole[: len(table)], table)
    np.testing.assert_allclose(smooth_noise(len(whole)), whole, atol=1e-3)


def test_the_noise_tables_magnitudes_fluctuate_less_than_those_of_gaussian_noise():
    window = torch.hann_window(320)
    fluctuations, table = [], torch.from_numpy(noise_table(2048, 80))
    for noise in (table, torch.randn(2048 * 80, generator=torch.Generator().manual_seed(0))):
        magnitudes = torch.stft(noise, 320, 80, window=window, return_complex=True).abs()
        fluctuations.append(float(magnitudes.std() / magnitudes.mean()))
    assert fluctuations[0] < 0.25 < 0.5 < fluctuations[1]
