"""Mixing channels down: an ordinary mean, but never silence where there was sound."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from audiovq.media.samples import Mixdown
from tests.media.audio import Pipe, read

RATE = 16000
RNG = np.random.default_rng(3)
VOICE = (0.3 * RNG.standard_normal(4 * RATE)).astype(np.float32)
OTHER = (0.3 * RNG.standard_normal(4 * RATE)).astype(np.float32)


def mixed(*channels, block=5000):
    data = np.stack(channels, axis=1)
    mixdown = Mixdown(RATE, len(channels))
    parts = [mixdown.push(data[i : i + block]) for i in range(0, len(data), block)]
    return np.concatenate([*parts, mixdown.finish()])[:, 0], mixdown.cancelled


def db(samples):
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-12)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 8, 100])
def test_the_mean_of_ordinary_channels(n_channels):
    channels = (0.1 * np.random.default_rng(0).standard_normal((n_channels, 40_000))).astype(np.float32)
    found, cancelled = mixed(*channels)
    assert np.array_equal(found, np.stack(channels, axis=1).mean(axis=1, dtype=np.float32))
    assert not cancelled


ORDINARY = {
    "equal channels": (VOICE, VOICE),
    "one silent": (VOICE, 0 * VOICE),
    "silence": (0 * VOICE, 0 * VOICE),
    "one much louder": (VOICE, 0.01 * OTHER),
    "opposite, but far quieter": (VOICE, -0.5 * VOICE),
    "a short delay": (VOICE, np.roll(VOICE, 5)),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_channels_that_do_not_cancel(name):
    channels = ORDINARY[name]
    found, cancelled = mixed(*channels)
    assert np.array_equal(found, np.mean(np.stack(channels, axis=1), axis=1, dtype=np.float32))
    assert not cancelled


OPPOSITE = {
    "exactly": (VOICE, -VOICE),
    "nearly": (VOICE, -VOICE * np.float32(0.95)),
    "with a little noise": (VOICE, -VOICE + 0.02 * OTHER),
    "two pairs": (VOICE, -VOICE, OTHER, -OTHER),
    "in 8 bits": (np.round(VOICE * 128) / np.float32(128), -np.round(VOICE * 128) / np.float32(128)),
}


@pytest.mark.parametrize("name", OPPOSITE)
def test_opposite_channels_keep_the_louder_one(name):
    channels = OPPOSITE[name]
    found, cancelled = mixed(*channels)
    assert abs(db(found) - db(VOICE)) < 0.5
    assert any(np.abs(found - channel).max() < 1e-6 for channel in channels)
    assert [[round(t, 3) for t in r] for r in cancelled.ranges] == [[0.0, 4.0]]


def test_only_where_they_cancel():
    second = np.float32(0.9) * OTHER
    second[2 * RATE :] = -VOICE[2 * RATE :]
    found, cancelled = mixed(VOICE, second)
    assert cancelled.ranges == [[2.0, 4.0]]
    assert np.array_equal(found[: 2 * RATE], ((VOICE + second) / 2)[: 2 * RATE])
    assert np.array_equal(found[2 * RATE + 200 :], VOICE[2 * RATE + 200 :])
    assert np.abs(np.diff(found[2 * RATE - 10 : 2 * RATE + 200])).max() < 2  # no click louder than the noise itself


def test_pauses_change_nothing():
    """Noise of the two inputs does not cancel; that of a pause must not decide."""
    gate = np.repeat([1, 0, 1, 0], RATE).astype(np.float32)
    noise = (1e-4 * np.random.default_rng(1).standard_normal((2, 4 * RATE))).astype(np.float32)
    found, cancelled = mixed(VOICE * gate + noise[0], -VOICE * gate + noise[1])
    assert cancelled.ranges == [[0.0, 4.0]]
    assert abs(db(found[2 * RATE : 2 * RATE + 1600]) - db(VOICE[2 * RATE : 2 * RATE + 1600])) < 0.1


@pytest.mark.parametrize("block", [1, 777, 1600, 100_000])
def test_blocks_do_not_matter(block):
    second = np.concatenate([OTHER[:20_000], -VOICE[20_000:33_333], OTHER[33_333:]])
    n = 40_001
    expected = mixed(VOICE[:n], second[:n])
    found = mixed(VOICE[:n], second[:n], block=block)
    assert np.array_equal(found[0], expected[0])
    assert found[1].ranges == expected[1].ranges


@pytest.mark.parametrize("n", [1, 2, 100, 1599, 1600, 1601])
def test_short_recordings(n):
    found, _ = mixed(VOICE[:n], -VOICE[:n])
    assert np.array_equal(found, VOICE[:n])
    found, _ = mixed(VOICE[:n], VOICE[:n])
    assert np.array_equal(found, VOICE[:n])


def test_files_and_pipes_say_so(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([VOICE, -VOICE], axis=1), RATE, subtype="FLOAT")
    for source in (tmp_path / "a.wav", Pipe((tmp_path / "a.wav").read_bytes())):
        samples, audio = read(source, mono=True)
        assert np.array_equal(samples[:, 0], np.clip(VOICE, -1, 1))
        assert [r for r in audio.remarks if "cancel each other at 0.00 s to 4.00 s" in r]
        assert not [r for r in read(tmp_path / "a.wav")[1].remarks if "cancel" in r]
