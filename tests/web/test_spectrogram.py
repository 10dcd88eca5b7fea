"""Axes, colours and lines of the page's drawings."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from audiovq.web import results as drawing

RATE = 16000


def image_of(svg):
    uri = re.search(r'href="data:image/png;base64,([^"]+)"', svg)[1]
    return Image.open(BytesIO(base64.b64decode(uri)))


@pytest.mark.parametrize("hz", [500, 2000, 6000])
def test_a_tone_is_at_its_frequency(hz):
    spectra = drawing.spectrogram(np.sin(2 * np.pi * hz * np.arange(RATE) / RATE).astype(np.float32), RATE)
    peaks = spectra[:, 10:-10].argmax(axis=0) * (RATE / 2) / (len(spectra) - 1)
    assert np.abs(peaks - hz).max() < 32


@pytest.mark.parametrize("n", [1, 100, 16000, 500_000])
def test_columns_fit_the_drawing_and_cover_the_time(n):
    samples = np.zeros(n, np.float32)
    samples[-(n // 2) - 1 :] = np.random.default_rng(0).normal(size=n // 2 + 1)
    spectra = drawing.spectrogram(samples, RATE)
    assert 1 <= spectra.shape[1] <= drawing.PLOT
    if n > 1000:
        loud = spectra.max(axis=0) > 0
        assert abs(loud.argmax() / len(loud) - 0.5) < 0.01


def test_one_colour_scale(tmp_path):
    noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    loud, soft = (drawing.spectrogram(gain * noise, RATE) for gain in (1, 0.01))
    top = drawing.top_of(loud)
    values = [np.asarray(image_of(f'href="{drawing.coloured(x, top)}"')) for x in (loud, soft)]
    assert values[0].max() == 255
    # 40 of 70 dB lower.
    steps = values[0].astype(int) - values[1]
    assert np.median(steps[values[1] > 0]) == pytest.approx(255 * 40 / 70, abs=1)


def test_lines_end_where_speech_is_unvoiced():
    f0 = np.array([0, 100, 110, 0, 0, 200, 0], float)
    lines = drawing.f0_lines(f0, 100)
    x = [[float(point.split(",")[0]) for point in line.split()] for line in lines]
    assert len(lines) == 2
    frame = drawing.PLOT / len(f0)
    ends = [(drawing.LEFT + a * frame, drawing.LEFT + b * frame) for a, b in ((1, 3), (5, 6))]
    assert [(line[0], line[-1]) for line in x] == [pytest.approx(pair, abs=0.1) for pair in ends]
    assert drawing.f0_lines(np.zeros(9), 100) == []


def test_higher_pitch_is_higher_up():
    y = drawing.f0_height(np.array([10, 50, 100, 200, 400, 600, 900]), 100)
    assert y[0] == y[1] == drawing.TOP + 100
    assert y[-1] == y[-2] == drawing.TOP
    assert np.allclose(np.diff(y[2:5]), y[3] - y[2])
    assert y[3] < y[2]


@pytest.mark.parametrize("seconds", [0.02, 0.5, 1, 5.14, 59.9, 600, 3000])
def test_time_ticks(seconds):
    ticks = drawing.time_ticks(seconds)
    assert ticks[0] == 0
    assert 2 <= len(ticks) <= 12 or seconds < 0.1
    assert ticks[-1] <= seconds


def test_drawings_are_svg():
    samples = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    f0 = np.full(50, 120.0)
    for svg in (drawing.draw_spectrogram(samples, RATE), drawing.draw_spectrogram(samples, RATE, 0.0, f0)):
        assert ElementTree.fromstring(svg).attrib["data-width"] == str(drawing.PLOT)
    assert svg.count('class="f0"') == 1


def test_equal_codes_have_equal_colours():
    codes = np.array([[1, 2, 1, 3], [5, 5, 6, 5]])
    pixels = np.asarray(image_of(drawing.draw_codes(codes, 1024, 0.08)))
    assert pixels.shape == (2, 4, 3)
    for row, colours in zip(codes, pixels, strict=True):
        same = (colours[:, None] == colours[None]).all(axis=-1)
        assert np.array_equal(same, row[:, None] == row[None])
