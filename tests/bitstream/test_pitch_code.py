import numpy as np
import pytest

from audiovq.bitstream.speech_layout import decode_pitch, encode_pitch, pitch_bits
from audiovq.codec.encoder import N_VALUES


def melody(n, seed=0):
    """A track that moves as speech does."""
    rng = np.random.default_rng(seed)
    steps = 90 + np.cumsum(rng.integers(-3, 4, n))
    voiced = np.sin(np.arange(n) / 11 + seed) > -0.3
    return np.where(voiced, np.clip(steps, 1, N_VALUES), 0)


@pytest.mark.parametrize("n_tracks", [1, 3])
def test_tracks_come_back_whatever_they_are(n_tracks):
    rng = np.random.default_rng(0)
    for n in (1, 2, 200):
        for tracks in (
            rng.integers(0, N_VALUES + 1, (n_tracks, n)),
            np.zeros((n_tracks, n), np.int64),
            np.full((n_tracks, n), N_VALUES),
            np.stack([melody(n, i) for i in range(n_tracks)]),
        ):
            assert np.array_equal(decode_pitch(encode_pitch(tracks), n_tracks, n), tracks)


def test_likely_tracks_are_short():
    track = melody(200)
    assert 8 * len(encode_pitch(track[None])) < 0.6 * 200 * np.log2(N_VALUES + 1)
    assert 8 * len(encode_pitch(np.zeros((1, 200), np.int64))) < 64
    assert abs(8 * len(encode_pitch(track[None])) - pitch_bits(track)) < 9


def test_any_bytes_are_tracks_or_refused():
    rng = np.random.default_rng(1)
    for n in range(0, 60):
        tracks = decode_pitch(rng.bytes(n), 2, 50)
        assert tracks is None or (tracks.min() >= 0 and tracks.max() <= N_VALUES)
