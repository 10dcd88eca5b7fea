"""From codec and prior to speech: voices, prompts, files, and a prior that belongs to another codec."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from audiovq.codec.codec import SpeechCodec
from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.interfaces import N_VALUES
from audiovq.io import read_json
from audiovq.prior import SpeakerDistribution, SpeechPrior
from audiovq.prior.speech import condition_of, load_prior, rounded, save_prior
from tests.prior.conftest import make_prior


def prior_for(codec, **changes):
    """A prior over the codes of a loaded codec."""
    sizes = {"n_codebooks": codec.n_codebooks, "codebook_size": codec.codebook_size, "pitch_values": N_VALUES + 1}
    return make_prior(**sizes, speaker_dim=codec.speaker_encoder.dim, codec=codec.model_hash.hex(), **changes)


def density(dim=8, levels=16):
    rng = np.random.default_rng(0)
    centres = rng.integers(4, 12, (5, dim))
    speakers = [f"s{i % 5}" for i in range(40)]
    vectors = np.stack([centres[i % 5] + rng.integers(-1, 2, dim) for i in range(40)])
    return SpeakerDistribution.fit(vectors, speakers, np.full(40, 10.0), levels, np.full(40, 150.0)), centres


@pytest.fixture
def model(codec, tmp_path):
    """A folder with a codec and its prior."""
    save_weights(codec, tmp_path / "model")
    loaded = SpeechCodec.from_pretrained(tmp_path / "model")
    save_prior(prior_for(loaded), tmp_path / "model" / "prior", density()[0])
    return tmp_path / "model"


def test_a_saved_prior_comes_back_as_rounded(tmp_path):
    prior, (voices, _) = make_prior(), density()
    save_prior(prior, tmp_path, voices)
    assert read_json(tmp_path / "config.json") == prior.config
    loaded, found = load_prior(tmp_path)
    expected = rounded(prior)
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    assert found is not None
    assert np.array_equal(found.sample(np.random.default_rng(1)), voices.sample(np.random.default_rng(1)))
    for name, weight in prior.state_dict().items():
        assert (expected[name] - weight).abs().max() <= weight.abs().max() / 250
    again = rounded(loaded)
    assert all(torch.allclose(again[name], expected[name], rtol=1e-6, atol=0) for name in again)


def test_a_prior_of_another_codec_is_refused(model):
    config = read_json(model / "prior" / "config.json")
    (model / "prior" / "config.json").write_text(json.dumps({**config, "codec": "00112233"}))
    with pytest.raises(AudioVQError, match=r"00112233.*train one"):
        SpeechPrior.from_pretrained(model)
    (model / "prior" / "config.json").write_text("{")
    with pytest.raises(AudioVQError, match="cannot be loaded"):
        SpeechPrior.from_pretrained(model)
    (model / "prior" / "config.json").unlink()
    with pytest.raises(AudioVQError, match="no prior"):
        SpeechPrior.from_pretrained(model)


def test_generated_speech_has_its_length_and_its_seed(model):
    source = SpeechPrior.from_pretrained(model)
    encoded = source.generate(0.705, 3, seed=5)
    assert encoded.n_samples.tolist() == [11280] * 3
    assert encoded.codes.shape == (3, 4, 36)
    assert source.codec.decode(encoded).shape == (3, 1, 11280)
    again = source.generate(0.705, 1, seed=5, first=2)
    assert torch.equal(again.codes, encoded.codes[2:])
    assert torch.equal(again.speaker, encoded.speaker[2:])
    assert not torch.equal(encoded.speaker[0], encoded.speaker[1])


def test_a_prompt_is_continued_in_its_voice(model, speech):
    source = SpeechPrior.from_pretrained(model)
    prompt = source.codec.encode([speech[:20001]], n_codebooks=3)
    encoded = source.generate(0.5, 2, prompt=prompt)
    assert encoded.codes.shape == (2, 3, 62 + 25)
    assert torch.equal(encoded.codes[:, :, :62], prompt.codes[:, :, :62].expand(2, -1, -1))
    assert torch.equal(encoded.speaker, prompt.speaker.expand(2, -1))
    assert encoded.n_samples.tolist() == [62 * 320 + 8000] * 2
    other = source.generate(0.5, 2, prompt=prompt, speaker=np.zeros(8, np.int64))
    assert (other.speaker == 0).all()


def test_saved_and_loaded_samples_are_the_same(model, tmp_path):
    source = SpeechPrior.from_pretrained(model)
    encoded = source.generate(1.5, 1, n_codebooks=2)
    source.codec.save(encoded, tmp_path / "a.avq")
    loaded = source.codec.load(tmp_path / "a.avq")
    assert torch.equal(loaded.codes, encoded.codes)
    assert torch.equal(loaded.speaker, encoded.speaker)


def test_what_cannot_be_sampled_is_an_error(model):
    source = SpeechPrior.from_pretrained(model)
    for arguments in ({"seconds": 0}, {"seconds": 1, "language": "xx"}, {"seconds": 1, "n_codebooks": 5}):
        with pytest.raises(AudioVQError):
            source.generate(**arguments)
    with pytest.raises(AudioVQError, match="no distribution of speakers"):
        SpeechPrior(source.codec, source.prior).generate(1.0)
    short = source.codec.encode([torch.randn(100)])
    with pytest.raises(AudioVQError, match="shorter than one frame"):
        source.generate(1.0, prompt=short)


def test_random_voices_lie_around_the_training_voices():
    voices, centres = density()
    rng = np.random.default_rng(2)
    drawn = np.stack([voices.sample(rng) for _ in range(300)])
    assert drawn.min() >= 0
    assert drawn.max() <= 15
    nearest = np.abs(drawn[:, None] - centres[None]).mean(-1).min(1)
    apart = np.abs(centres[:, None] - centres[None]).mean(-1)
    assert nearest.mean() < apart[apart > 0].mean()
    assert len(np.unique(drawn, axis=0)) > 100
    assert np.abs(drawn.mean(0) - centres.mean(0)).max() < 1.5


def test_conditions_of_a_batch_are_the_codecs_vectors(codec):
    voice = torch.randint(0, 16, (2, 8))
    condition = condition_of(codec, {"voice": voice, "language": torch.tensor([0, -1])})
    assert torch.equal(condition.speaker, codec.speaker_encoder.decode(voice))
