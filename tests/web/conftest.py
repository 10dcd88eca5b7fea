from __future__ import annotations

import numpy as np
import pytest
import soundfile

from tests.codec.tiny import speech_like
from tests.web import models


@pytest.fixture
def pitched(tmp_path):
    """A codec with coded pitch, loaded from a folder with two speakers."""
    return models.with_speakers(tmp_path / "pitched")


@pytest.fixture
def prior(codec, tmp_path):
    return models.with_prior(codec, tmp_path / "prior")


@pytest.fixture
def audio(tmp_path):
    """Write speech-like audio as a file of 16 bits."""

    def make(name="speech.wav", seconds=1.5, rate=16000, channels=1, seed=0):
        samples = speech_like(seconds * rate / 16000, seed)
        path = tmp_path / name
        soundfile.write(path, np.stack([samples] * channels, axis=1), rate)
        return path

    return make
