"""Samples that are clipped or no numbers: named with their times."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from audiovq.media.samples import ClippingDetector, TimeRanges
from tests.media.audio import Pipe, read, refusal

RATE = 16000
VOICE = np.sin(2 * np.pi * 150 * np.arange(5 * RATE) / RATE) * (0.6 + 0.35 * np.sin(np.arange(5 * RATE) / 900))


def remarks_of(samples, tmp_path, subtype="PCM_16"):
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype=subtype)
    audio = read(tmp_path / "a.wav")[1]
    assert read(Pipe((tmp_path / "a.wav").read_bytes()))[1].remarks == audio.remarks
    return audio.remarks


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "PCM_U8"])
def test_long_clipped_stretches_are_named_once(tmp_path, subtype):
    gain = np.ones(5 * RATE)
    gain[RATE : 2 * RATE] = gain[3 * RATE : 3 * RATE + 8000] = 8
    found = remarks_of(np.clip(VOICE * gain, -1, 1 if subtype == "FLOAT" else 0.99999), tmp_path, subtype)
    assert found == ["warning: clipped, and so distorted, at 1.00 s to 2.00 s and 3.00 s to 3.50 s"]


def test_ordinary_levels_are_no_reason_to_warn(tmp_path):
    for samples in (
        VOICE,
        VOICE / np.abs(VOICE).max(),  # normalized to full scale
        np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE),  # a tone at full scale
        np.where(np.arange(RATE) % 4000 < 2, 1.0, 0.0),  # clicks
        np.where((np.arange(RATE) > 5000) & (np.arange(RATE) < 5400), 1.0, 0.0),  # 25 ms
    ):
        assert remarks_of(samples, tmp_path) == []


def test_one_channel_is_enough(tmp_path):
    stereo = np.stack([VOICE, np.clip(9 * VOICE, -1, 1)], axis=1)
    assert len(remarks_of(stereo, tmp_path)) == 1


@pytest.mark.parametrize("block", [1, 7, 320, 9999])
def test_clipping_does_not_depend_on_blocks(block):
    samples = np.abs(np.clip(VOICE * np.repeat([1, 6, 1, 6, 1], RATE), -1, 1))[: 3 * RATE + 77, None]
    found = []
    for size in (len(samples), block):
        detector = ClippingDetector(RATE, 1)
        for i in range(0, len(samples), size):
            detector.add(samples[i : i + size])
        found.append(detector.finish().ranges)
    assert found[0] == found[1]
    assert len(found[0]) == 1


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_stretches_that_are_no_numbers(tmp_path, value, what):
    samples = np.zeros((20 * RATE, 2), np.float32)
    samples[RATE : 2 * RATE, 0] = value
    samples[4 * RATE, 0] = value
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    data = (tmp_path / "a.wav").read_bytes()
    expected = f"has {what} samples of channel 1 at 1.00 s to 2.00 s and 4.000 s; repair it first"
    assert refusal(data, tmp_path) == expected
    samples[19 * RATE :, 1] = value
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="DOUBLE")
    assert "samples at 1.00 s to 2.00 s, 4.000 s and 19.00 s to 20.00 s" in refusal(
        (tmp_path / "a.wav").read_bytes(), tmp_path
    )


def test_what_cannot_wait_for_the_end_does_not(tmp_path):
    """A pipe without a length may never end."""
    soundfile.write(tmp_path / "a.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    data = (tmp_path / "a.wav").read_bytes()
    at = data.index(b"data") + 4
    pipe = Pipe(data[:at] + b"\xff" * 4 + data[at + 4 :] + bytes(1 << 22))
    with pytest.raises(Exception, match=r"NaN samples at 0\.\d+ s"):
        read(pipe)
    assert pipe._position < 1 << 18


def test_ranges_in_words():
    ranges = TimeRanges()
    assert not ranges
    for i in range(6):
        ranges.add(i, i + 0.2)
    ranges.add(5.25, 5.5)
    ranges.add(9.0, 9.0)
    assert str(ranges) == "0.00 s to 0.20 s, 1.00 s to 1.20 s, 2.00 s to 2.20 s, 3.00 s to 3.20 s and 3 more"
    assert ranges.ranges[5] == [5, 5.5]
    assert str(ranges.longer_than(0.3)) == "5.00 s to 5.50 s"
