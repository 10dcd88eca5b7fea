"""Long-term spectra: what they measure, and that a stream gets the one it should have, at its own level."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import freqz, lfilter

from audiovq.conversion.spectral_match import N_BANDS, LongTermSpectrum, TimbreMatch, matching_filter
from tests.evaluation.conftest import voice

RATE = 16000
DARK = ([0.3], [1.0, -0.7])


def spectrum_of(samples, block=None):
    heard = LongTermSpectrum()
    for i in range(0, len(samples), block or len(samples)):
        heard.add(samples[i : i + (block or len(samples))])
    return heard.mean()


def matched(samples, wanted, block=None):
    match = TimbreMatch(wanted)
    step = block or max(len(samples), 1)
    pieces = [match.push(samples[i : i + step]) for i in range(0, len(samples), step)]
    return np.concatenate([*pieces, match.finish()])


def test_level_and_arrival_do_not_count():
    samples = voice(8.0)
    whole = spectrum_of(samples)
    assert whole.shape == (N_BANDS,)
    assert whole.mean() == pytest.approx(0, abs=1e-5)
    assert np.allclose(whole, spectrum_of(samples, 777), atol=1e-5)
    assert np.allclose(whole, spectrum_of(0.01 * samples), atol=1e-3)


def test_pauses_do_not_count():
    samples = voice(8.0)
    hiss = 1e-4 * np.random.default_rng(0).standard_normal(8 * RATE).astype(np.float32)
    heard = LongTermSpectrum()
    heard.add(np.concatenate([samples, hiss]))
    assert np.abs(heard.mean() - spectrum_of(samples)).max() < 0.3
    assert 4 < heard.seconds < 8.5


def test_silence_has_none():
    assert LongTermSpectrum().mean() is None
    heard = LongTermSpectrum()
    heard.add(np.zeros(RATE, np.float32))
    assert heard.mean() is None


def test_the_filter_has_the_gain_that_is_asked_for_and_no_delay():
    wanted = np.linspace(1.0, -1.0, N_BANDS)
    taps = matching_filter(np.zeros(N_BANDS), wanted)
    import librosa

    centres = librosa.mel_frequencies(N_BANDS + 2, fmin=0, fmax=8000)[1:-1]
    _, response = freqz(taps, worN=centres, fs=RATE)
    assert np.allclose(np.log(np.abs(response)), 0.5 * wanted, atol=0.05)
    # Minimum phase: most of its energy is in the first millisecond.
    assert np.square(taps[:16]).sum() > 0.95 * np.square(taps).sum()
    assert np.allclose(matching_filter(wanted, wanted), np.eye(1, 512)[0], atol=1e-9)


def test_a_stream_gets_the_spectrum_at_its_own_level():
    samples, other = voice(6.0), lfilter(*DARK, voice(6.0, pitch=210.0, seed=2)).astype(np.float32)
    changed = matched(samples, spectrum_of(other))
    assert len(changed) == len(samples)
    assert np.median(np.abs(spectrum_of(changed) - spectrum_of(other))) < 0.25
    assert np.median(np.abs(spectrum_of(samples) - spectrum_of(other))) > 0.5
    assert np.square(changed).mean() == pytest.approx(np.square(samples).mean(), rel=0.02)


@pytest.mark.parametrize("block", [1600, 64000])
def test_it_does_not_depend_on_how_the_stream_arrives(block):
    samples = voice(13.0)
    wanted = spectrum_of(lfilter(*DARK, samples).astype(np.float32))
    assert np.allclose(matched(samples, wanted, block), matched(samples, wanted), atol=1e-5)


def test_silence_stays_silence():
    assert not matched(np.zeros(RATE, np.float32), np.linspace(1, -1, N_BANDS)).any()
    assert len(matched(np.zeros(0, np.float32), np.zeros(N_BANDS))) == 0


def test_a_word_is_moved_only_part_of_the_way():
    word, wanted = voice(0.5), spectrum_of(lfilter(*DARK, voice(6.0)).astype(np.float32))
    before, after = (np.abs(spectrum_of(x) - wanted).mean() for x in (word, matched(word, wanted)))
    assert 0.4 * before < after < before


@pytest.mark.parametrize("level", [0.0, 4e-4])
def test_a_silent_opening_does_not_decide(level):
    draw = np.random.default_rng(0)
    silence = (level * draw.standard_normal(12 * RATE)).astype(np.float32)
    speech, dark = voice(6.0), lfilter(*DARK, voice(6.0)).astype(np.float32)
    changed = matched(np.concatenate([silence, speech]), spectrum_of(dark))
    assert np.median(np.abs(spectrum_of(changed[12 * RATE :]) - spectrum_of(dark))) < 0.25
    assert np.square(changed[12 * RATE :]).mean() == pytest.approx(np.square(speech).mean(), rel=0.1)


def test_silence_for_long_is_not_waited_for():
    match = TimbreMatch(np.linspace(1, -1, N_BANDS))
    ready = sum(len(match.push(np.zeros(RATE, np.float32))) for _ in range(31))
    assert ready == 31 * RATE
