"""Long recordings drawn in stretches: the same however many at a time, however they arrive, and nearly as in one go."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiovq.hub import codes_hash, save_weights
from audiovq.interfaces import Packet
from audiovq.speech.codec import SpeechCodec
from audiovq.speech.wavenet_files import save_wavenet
from audiovq.speech.wavenet_stretches import StretchedStream
from tests.speech.test_wavenet import wavenet


@pytest.fixture(params=["bands", "draft", "paper"])
def model(request, codec, tmp_path):
    save_weights(codec, tmp_path, torch.float32)
    save_wavenet(wavenet(request.param), tmp_path, codes_hash(tmp_path), torch.float32)
    return SpeechCodec.from_pretrained(tmp_path)


def stream(codec, speaker, n_streams):
    return StretchedStream(codec, *codec.wavenet(), speaker, 3, n_streams=n_streams, n_frames=30)


def drawn(codec, encoded, n_streams, size):
    codes = encoded.codes[0].numpy()
    own = stream(codec, encoded.speaker[0].numpy(), n_streams)
    pieces = [own.push(Packet(codes[:, i : i + size])) for i in range(0, codes.shape[1], size)]
    return np.concatenate([*pieces, own.finish(int(encoded.n_samples[0]))])


def test_the_samples_depend_on_codes_and_seed_alone(model, speech):
    for n_samples in (52901, 320 * 30, 3000):
        encoded = model.encode([speech[:n_samples]])
        whole = drawn(model, encoded, 16, 10_000)
        assert whole.shape == (n_samples,)
        assert np.abs(whole).max() > 0
        for n_streams, size in ((2, 50), (3, 7), (1, 1)):
            assert np.array_equal(drawn(model, encoded, n_streams, size), whole)


def test_stretches_come_together(model, speech):
    """With the same noise, a stretch that began with silence finds into step with the one before it."""
    encoded = model.encode([speech])
    model.seed = 3
    plain = model.decode(encoded, decoder="wavenet")[0, 0].numpy()
    apart = drawn(model, encoded, 4, 50) - plain
    assert np.square(apart).mean() < 1e-2 * np.square(plain).mean()


def test_the_codec_takes_its_setting(model, speech):
    encoded = model.encode([speech])
    model.wavenet_streams = 2
    assert isinstance(model.decoder_stream(encoded.speaker[0].numpy(), "wavenet"), StretchedStream)
    two = model.decode(encoded, decoder="wavenet")
    model.wavenet_streams = 5
    assert torch.equal(model.decode(encoded, decoder="wavenet"), two)
    model.seed = 1
    assert not torch.equal(model.decode(encoded, decoder="wavenet"), two)
