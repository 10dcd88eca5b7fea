"""Small untrained models for the page: one with speakers, one with a prior."""

from __future__ import annotations

import numpy as np

from audiovq import SpeechCodec
from audiovq.conversion.target import BundledVoice, write_voices
from audiovq.hub import save_weights
from audiovq.prior.speech import SpeechPrior, load_prior, save_prior
from tests.codec.tiny import make_codec
from tests.prior.test_speech import density, prior_for


def with_speakers(folder):
    """A codec with two bundled speakers."""
    save_weights(make_codec(), folder)
    codec = SpeechCodec.from_pretrained(folder)
    rng = np.random.default_rng(0)
    voices = [
        BundledVoice(name, ["en"], sex, 60.0, pitch, rng.integers(0, 16, 8).tolist(), "CC0-1.0", "a test")
        for name, sex, pitch in (("high", "female", 220.0), ("low", "male", 110.0))
    ]
    write_voices(codec, voices, folder)
    return codec


def with_prior(codec, folder):
    """A codec with its prior."""
    save_weights(codec, folder)
    loaded = SpeechCodec.from_pretrained(folder)
    save_prior(prior_for(loaded), folder / "prior", density()[0])
    return SpeechPrior(loaded, *load_prior(folder / "prior", loaded))
