import numpy as np
import torch

from audiovq.codec.encoder import N_VALUES, PitchTracker, hz_to_pitch, pitch_to_hz
from tests.codec.tiny import speech_like


def test_codes_are_quarter_semitones():
    codes = torch.arange(N_VALUES + 1)
    hz = pitch_to_hz(codes)
    assert hz[0] == 0
    assert hz[1] == 50
    assert torch.allclose(hz[49:97] / hz[1:49], torch.tensor(2.0, dtype=torch.float64))
    assert torch.equal(hz_to_pitch(hz), codes)


def test_frequencies_off_the_scale_go_to_its_ends():
    assert hz_to_pitch(torch.tensor([10.0, 5000.0])).tolist() == [1, N_VALUES]


def test_the_autocorrelation_has_its_peak_at_the_period():
    """What the tracker sees, before any weights: of a harmonic signal the first curve peaks at its fundamental."""
    tracker = PitchTracker(channels=8, dilations=(1,))
    time = np.arange(16000) / 16000
    for hz in (90.0, 200.0, 410.0):
        tone = sum(np.cos(2 * np.pi * k * hz * time) for k in range(1, int(3000 / hz)))
        tone = 0.2 * tone / np.abs(tone).max()
        features = tracker.features(torch.from_numpy(tone.astype(np.float32))[None, None])[0]
        curve = features[tracker.bins : tracker.bins + N_VALUES, 20]
        found = pitch_to_hz(curve.argmax() + 1)
        periods = hz / float(found)
        assert abs(periods / round(periods) - 1) < 0.02, hz  # a whole number of periods


def test_an_offset_in_time_moves_the_codes_with_it():
    torch.manual_seed(0)
    tracker = PitchTracker(channels=16, dilations=(1, 2)).eval()
    samples = torch.from_numpy(speech_like(2.0))[None, None]
    whole, later = tracker.track(samples), tracker.track(samples[..., 3200:])
    context = tracker.context_frames
    assert torch.equal(whole[0, 10 + context : -context], later[0, context:-context])
