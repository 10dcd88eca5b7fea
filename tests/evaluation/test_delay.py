from __future__ import annotations

import numpy as np
import pytest

from audiovq.evaluation.protocol import common_delay, remove_delay
from tests.evaluation.conftest import noisy, voice


@pytest.mark.parametrize("delay", [-800, -16, 0, 160, 1120])
def test_a_delay_is_found_in_other_phases_and_noise(delay):
    references = [voice(3.0, seed=seed) for seed in range(3)]
    # The Hilbert transform moves every component by a quarter of its period: samples no longer correlate.
    from scipy.signal import hilbert

    late = [noisy(np.roll(hilbert(samples).imag.astype(np.float32), delay), 0.005) for samples in references]
    assert abs(common_delay(references, late) - delay) <= 16


def test_one_delay_serves_recordings_of_unequal_lengths():
    references = [voice(seconds, seed=seed) for seed, seconds in enumerate((2.0, 3.1, 4.7))]
    late = [np.concatenate([np.zeros(320, np.float32), samples]) for samples in references]
    assert common_delay(references, late) == 320


def test_silence_has_no_delay():
    silence = np.zeros(32000, np.float32)
    assert common_delay([silence], [silence]) == 0


@pytest.mark.parametrize("delay", [-5, 0, 7])
@pytest.mark.parametrize("length", [80, 100, 130])
def test_remove_delay_undoes_a_delay_at_the_length_asked_for(delay, length):
    samples = np.arange(1, 101, dtype=np.float32)
    late = np.concatenate([np.zeros(delay), samples]) if delay >= 0 else samples[-delay:]
    back = remove_delay(late.astype(np.float32), delay, length)
    assert len(back) == length
    kept = slice(max(-delay, 0), min(length, 100))
    np.testing.assert_array_equal(back[kept], samples[kept])
