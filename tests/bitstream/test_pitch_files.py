"""Files of a codec with coded pitch and level."""

import io

import numpy as np
import pytest
import soundfile
import torch

from audiovq.bitstream import decode_file, encode_file, inspect_file, load_encoded
from audiovq.conversion.files import convert_file
from audiovq.conversion.pitch import median_hz
from audiovq.conversion.target import TargetVoice
from audiovq.errors import AudioVQError
from tests.codec.tiny import RATE, make_codec, speech_like


@pytest.fixture(scope="module")
def codec():
    return make_codec()


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "speech.wav"
    soundfile.write(path, np.stack([speech_like(2.1), speech_like(2.1, 4)], axis=1), RATE, subtype="FLOAT")
    return path


def encoded_file(source, codec, **settings):
    target = io.BytesIO()
    encode_file(str(source), target, codec, **settings)
    return target.getvalue()


def voice(codec):
    target = TargetVoice(codec)
    target.add(speech_like(6.0, 9))
    target.finish_recording()
    return target


def test_a_file_holds_what_encode_gives(codec, recording):
    samples, _ = soundfile.read(recording, dtype="float32", always_2d=True)
    expected = codec.encode([samples[:, 0].copy(), samples[:, 1].copy()])
    loaded = load_encoded(io.BytesIO(encoded_file(recording, codec)), codec)
    for name in ("codes", "pitch", "level", "speaker", "n_samples"):
        assert torch.equal(getattr(loaded, name), getattr(expected, name)), name
    decoded = io.BytesIO()
    decode_file(io.BytesIO(encoded_file(recording, codec)), decoded, codec)
    decoded.seek(0)
    heard, rate = soundfile.read(decoded, dtype="float32")
    assert (len(heard), rate) == (len(samples), RATE)
    exact = codec.decode(expected)[:, 0].numpy().T
    assert np.abs(heard - np.clip(exact, -1, 1)).max() < 1e-4


def test_info_tells_pitch(codec, recording):
    data = encoded_file(recording, codec)
    found = inspect_file(io.BytesIO(data), clock_of=lambda _: (RATE, codec.hop_length))
    expected = load_encoded(io.BytesIO(data), codec).pitch.numpy()
    assert found.voiced == pytest.approx((expected > 0).mean())
    assert found.pitch_hz[1] == pytest.approx(median_hz([expected.reshape(-1)]), rel=0.03)
    assert 0 < found.pitch_and_level_bps * 2.1 * 2 / 8 < len(data)


@pytest.mark.parametrize("pitch", ["keep", "auto", 3.0])
def test_another_voice_for_a_coded_file_moves_pitch_and_keeps_codes(codec, recording, tmp_path, pitch):
    source, target = tmp_path / "a.avq", tmp_path / "b.avq"
    source.write_bytes(encoded_file(recording, codec))
    other = voice(codec)
    convert_file(str(source), str(target), codec, lambda _: other, pitch=pitch)
    before, after = load_encoded(str(source), codec), load_encoded(str(target), codec)
    assert torch.equal(after.codes, before.codes)
    assert torch.equal(after.level, before.level)
    assert after.speaker[0].tolist() == other.vector().tolist()
    assert torch.equal(after.pitch > 0, before.pitch > 0)
    inside = (before.pitch > 60) & (before.pitch < 116)
    moved = (after.pitch - before.pitch)[inside]
    assert moved.min() == moved.max()
    assert moved[0] == {"keep": 0, 3.0: 12}.get(pitch, moved[0])


def test_converting_audio_equals_converting_its_file(codec, recording, tmp_path):
    other = voice(codec)
    coded, direct, by_file = tmp_path / "a.avq", tmp_path / "direct.avq", tmp_path / "by_file.avq"
    coded.write_bytes(encoded_file(recording, codec))
    convert_file(str(recording), str(direct), codec, lambda _: other)
    convert_file(str(coded), str(by_file), codec, lambda _: other)
    assert torch.equal(load_encoded(str(direct), codec).pitch, load_encoded(str(by_file), codec).pitch)
    for name in ("direct", "by_file"):
        convert_file(str(tmp_path / f"{name}.avq"), str(tmp_path / f"{name}.wav"), codec, lambda _: other, pitch="keep")
    assert (tmp_path / "direct.wav").read_bytes() == (tmp_path / "by_file.wav").read_bytes()


def test_altered_bytes_are_noticed(codec, recording):
    data = encoded_file(recording, codec)
    rng = np.random.default_rng(0)
    for place in rng.integers(10, len(data), 60):
        altered = bytearray(data)
        altered[place] ^= int(rng.integers(1, 256))
        with pytest.raises(AudioVQError):
            load_encoded(io.BytesIO(bytes(altered)), codec)
