import numpy as np
import pytest
import torch

from audiovq.codec.signal import HighPass, dequantize_level, frame_levels, quantize_level

RATE = 16000


def test_a_constant_offset_changes_nothing():
    samples = np.random.default_rng(0).standard_normal(4000).astype(np.float32) * 0.1
    plain = HighPass(RATE)(samples)
    offset = HighPass(RATE)(samples.astype(np.float64) + 0.3)
    assert np.abs(plain - offset).max() < 1e-6


@pytest.mark.parametrize("size", [1, 333, 4000])
def test_pieces_equal_the_whole(size):
    samples = np.random.default_rng(1).standard_normal(4000).astype(np.float32)
    whole, pieces = HighPass(RATE)(samples), HighPass(RATE)
    assert np.array_equal(np.concatenate([pieces(samples[i : i + size]) for i in range(0, 4000, size)]), whole)


def test_rumble_goes_and_speech_stays():
    time = np.arange(RATE) / RATE
    rumble, voice = np.sin(2 * np.pi * 8 * time), np.sin(2 * np.pi * 120 * time)
    assert np.abs(HighPass(RATE)(rumble)[4000:]).max() < 0.2
    assert np.abs(HighPass(RATE)(voice)[4000:]).max() > 0.98


def test_levels_are_in_decibels():
    samples = torch.full((1, 3200), 0.1)
    assert torch.allclose(frame_levels(samples, 320), torch.tensor(-20.0), atol=1e-3)


def test_level_codes_round_to_half_decibels():
    for level in (-90.0, -33.3, 0.0, 20.0):
        assert abs(dequantize_level(quantize_level(level)) - level) <= 0.25
    assert quantize_level(-1000.0) == 0
    assert quantize_level(1000.0) == 254
