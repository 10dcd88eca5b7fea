"""Code for the codecs of ``transformers`` runs with the class changed, and gives what the codec itself gives."""

import copy
import pickle

import numpy as np
import pytest
import torch

import audiovq
from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from tests.codec.tiny import RATE, make_codec, speech_like


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_weights(make_codec(), path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return audiovq.AudioVQModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def recordings():
    return [speech_like(1.0, 1), speech_like(1.7, 2)]


def mimi_round_trip(model, extractor, recordings):
    """A batch through the calls that a user of Mimi makes."""
    inputs = extractor(raw_audio=recordings, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    with torch.no_grad():
        encoded = model.encode(inputs["input_values"], inputs["padding_mask"], num_quantizers=2)
        first = model.decode(encoded.audio_codes, inputs["padding_mask"])[0]
        (codes, *_) = model.encode(inputs["input_values"], inputs["padding_mask"], num_quantizers=2, return_dict=False)
        whole = model(inputs["input_values"], inputs["padding_mask"], num_quantizers=2)
    assert encoded["audio_codes"] is encoded.audio_codes
    assert torch.equal(codes, encoded[0])
    assert torch.equal(whole.audio_codes, encoded.audio_codes)
    assert torch.allclose(whole.audio_values, first)
    assert encoded.audio_codes.shape[:2] == (len(recordings), 2)
    assert first.shape == inputs["input_values"].shape
    assert 0 <= int(encoded.audio_codes.min()) <= int(encoded.audio_codes.max()) < model.config.codebook_size
    return encoded, first


def encodec_round_trip(model, extractor, recording, bandwidth):
    """One recording through the calls that a user of EnCodec makes."""
    inputs = extractor(raw_audio=recording, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    with torch.no_grad():
        outputs = model.encode(inputs["input_values"], inputs["padding_mask"], bandwidth)
        values = model.decode(outputs.audio_codes, outputs.audio_scales, inputs["padding_mask"])[0]
    assert values.shape == inputs["input_values"].shape
    return outputs, values


def test_code_for_mimi(model, recordings):
    transformers = pytest.importorskip("transformers")
    config = transformers.MimiConfig(
        sampling_rate=RATE, num_filters=4, hidden_size=16, intermediate_size=16, num_hidden_layers=1, head_dim=8,
        num_attention_heads=2, num_key_value_heads=2, codebook_size=32, codebook_dim=8, num_quantizers=4,
        vector_quantization_hidden_dimension=8, upsample_groups=16,
    )  # fmt: skip
    extractor = audiovq.AudioVQFeatureExtractor(RATE)
    mimi_round_trip(model, extractor, recordings)
    try:
        mimi = transformers.MimiModel(config).eval()
    except OSError as error:  # it imports torchaudio, which may be made for another torch
        pytest.skip(str(error))
    mimi_round_trip(mimi, extractor, recordings)


def test_the_codes_and_samples_are_the_codecs(model, folder, recordings):
    extractor = audiovq.AudioVQFeatureExtractor.from_pretrained(folder)
    encoded, decoded = mimi_round_trip(model, extractor, recordings)
    expected = model.codec.encode(recordings, n_codebooks=2)
    for name in ("pitch", "level", "speaker", "n_samples"):
        assert torch.equal(encoded[name], getattr(expected, name)), name
    assert torch.equal(encoded.audio_codes, expected.codes)
    assert torch.equal(decoded, model.codec.decode(expected))


def test_code_for_encodec(model, recordings):
    extractor = audiovq.AudioVQFeatureExtractor(RATE)
    for books, bandwidth in enumerate(model.config.target_bandwidths, 1):
        outputs, values = encodec_round_trip(model, extractor, recordings[0], bandwidth)
        assert outputs.audio_codes.shape[1] == books
    assert torch.equal(values, model.codec.decode(model.codec.encode(recordings[:1], n_codebooks=4)))
    with pytest.raises(AudioVQError, match="needs"):
        model.encode(torch.zeros(1, 1, 400), bandwidth=0.01)


def test_codes_carry_what_decoding_needs_and_no_changed_codes_do(model, recordings):
    codes = model.encode(torch.from_numpy(recordings[0])).audio_codes
    expected = model.decode(codes).audio_values
    for kept in (codes.to("cpu"), codes.clone(), codes.cpu(), copy.deepcopy(codes)):
        assert torch.equal(model.decode(kept).audio_values, expected)
    for changed in (codes[:, :1], codes + 0, torch.cat([codes, codes], -1), pickle.loads(pickle.dumps(codes))):
        assert type(changed) is torch.Tensor
        with pytest.raises(AudioVQError, match="pitch, level, speaker"):
            model.decode(changed)
    assert type(torch.nn.Embedding(32, 4)(codes)) is torch.Tensor


def test_fields_are_overridden_by_name(model, recordings):
    encoded = model.encode(torch.from_numpy(recordings[0]))
    parts = {name: encoded[name] for name in ("pitch", "level", "speaker")}
    plain = torch.Tensor(encoded.audio_codes.numpy()).long()
    length = torch.ones(1, len(recordings[0]))
    assert torch.equal(model.decode(plain, length, **parts)[0], model.decode(encoded)[0])
    other = model.decode(encoded, speaker=(encoded.speaker + 5) % 16).audio_values
    assert other.shape == (1, 1, len(recordings[0]))
    assert not torch.allclose(other, model.decode(encoded).audio_values)


def test_saved_and_loaded(model, recordings, tmp_path):
    model.save_pretrained(tmp_path)
    audiovq.AudioVQFeatureExtractor.from_pretrained(tmp_path).save_pretrained(tmp_path)
    again = audiovq.AudioVQModel.from_pretrained(tmp_path, device_map="cpu")
    assert again.codec.model_hash == model.codec.model_hash
    values = torch.from_numpy(recordings[0])[None, None]
    assert torch.equal(again(values).audio_values, model(values).audio_values)
    assert (tmp_path / "preprocessor_config.json").is_file()
    assert audiovq.AudioVQFeatureExtractor.from_pretrained(tmp_path).sampling_rate == RATE


def test_padding_and_rates_are_checked(model, folder, recordings):
    values = torch.zeros(2, 1, 1000)
    front = torch.ones(2, 1000)
    front[1, :10] = 0
    for mask in (front, torch.ones(2, 999)):
        with pytest.raises(AudioVQError, match="padding_mask"):
            model.encode(values, mask)
    with pytest.raises(AudioVQError, match="input_values"):
        model.encode(torch.zeros(1, 2, 100))
    extractor = audiovq.AudioVQFeatureExtractor.from_pretrained(folder)
    with pytest.raises(AudioVQError, match="24000"):
        extractor(recordings[0], sampling_rate=24000)
    with pytest.raises(AudioVQError, match="one channel"):
        extractor(np.zeros((2, 100)))
    batch = extractor(recordings, padding="max_length", max_length=40000, return_tensors="pt")
    assert batch.input_values.shape == (2, 1, 40000)
    assert batch.padding_mask.sum(1).tolist() == [len(item) for item in recordings]
    assert len(extractor(recordings[0], truncation=True, max_length=100).input_values[0, 0]) == 100
