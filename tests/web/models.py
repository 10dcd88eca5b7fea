"""Small untrained models for the page: one with coded pitch and speakers, one with a prior."""

from __future__ import annotations

import numpy as np

from audiovq.codec.codec import SpeechCodec as PitchCodec
from audiovq.conversion.voices import BundledVoice, write_voices
from audiovq.hub import load_codec, save_weights
from audiovq.prior.speech import SpeechPrior, load_prior, save_prior
from audiovq.speech.codec import SpeechCodec
from tests.codec.tiny import make_codec
from tests.prior.conftest import BACKBONES, make_prior
from tests.prior.test_speech import density


def with_speakers(folder):
    """A codec with coded pitch and two bundled speakers."""
    save_weights(make_codec(), folder)
    codec = load_codec(PitchCodec, folder)
    rng = np.random.default_rng(0)
    voices = [
        BundledVoice(name, ["en"], sex, 60.0, pitch, rng.integers(0, 16, 8).tolist(), "CC0-1.0", "a test")
        for name, sex, pitch in (("high", "female", 220.0), ("low", "male", 110.0))
    ]
    write_voices(codec, voices, folder)
    return codec


def with_prior(codec, folder):
    """A codec without coded pitch, and its prior."""
    save_weights(codec, folder)
    loaded = load_codec(SpeechCodec, folder)
    arguments = {"n_codebooks": 4, "codebook_size": 32, "speaker_dim": 6, "codec": loaded.model_hash.hex()}
    save_prior(make_prior(**arguments, backbone=BACKBONES["transformer"]), folder / "prior", density()[0])
    return SpeechPrior(loaded, *load_prior(folder / "prior", loaded))
