"""Files of a codec with coded pitch and level."""

import io

import numpy as np
import pytest
import soundfile
import torch

from audiovq.bitstream import decode_file, encode_file, inspect_file, load_encoded, save_encoded
from audiovq.bitstream.entropy import decode_varint
from audiovq.bitstream.speech_reader import LostSpeech, SpeechReader
from audiovq.conversion.files import convert_file
from audiovq.conversion.pitch import median_hz
from audiovq.conversion.target import TargetVoice
from audiovq.errors import AudioVQError
from audiovq.interfaces import EncodedSpeech
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


def records_of(data):
    """Header and records of a file, each with its checksum."""
    position = len(data) - len(_behind_header(data))
    parts = [data[:position]]
    while position < len(data):
        length, begin = decode_varint(data, position)
        _, begin = decode_varint(data, begin)
        end = begin + (length >> 1) + 4 if length else len(data)
        parts.append(data[position:end])
        position = end
    return parts


def _behind_header(data):
    size, begin = decode_varint(data, 10)
    return data[begin + size + 4 :]


@pytest.mark.parametrize("lost", [(3,), (0,), (7, 8), (1, 5, 6, 20)])
def test_packets_lost_on_the_way_are_concealed(codec, recording, lost):
    data = encoded_file(recording, codec, packet_frames=4)
    header, *records, end = records_of(data)
    assert len(records) == 27
    damaged = header + b"".join(record for i, record in enumerate(records) if i not in lost) + end
    with pytest.raises(AudioVQError, match="lost; --conceal decodes the rest"):
        decode_file(io.BytesIO(damaged), io.BytesIO(), codec)
    target = io.BytesIO()
    report = decode_file(io.BytesIO(damaged), target, codec, conceal=True)
    target.seek(0)
    heard, _ = soundfile.read(target, dtype="float32")
    assert len(heard) == round(2.1 * RATE)
    assert report.damage[0].startswith(f"{lost[0] * 0.08:.2f} s to")
    gaps = [item for item in packets_of(damaged, codec) if isinstance(item, LostSpeech)]
    assert len(gaps) == len(lost)


def packets_of(data, codec):
    reader = SpeechReader(io.BytesIO(data))
    reader.expect(codec)
    return list(reader.packets(conceal=True))


def test_each_short_packet_is_coded_on_its_own(codec, recording):
    """A packet's bytes depend on that packet alone: the same packet, alone in a file, has the same payload."""
    samples, _ = soundfile.read(recording, dtype="float32", always_2d=True)
    encoded = codec.encode(samples[:, 0].copy(), packet_frames=4)
    target = io.BytesIO()
    save_encoded(encoded, target, codec)
    payloads = [record[2:-4] for record in records_of(target.getvalue())[1:-1]]
    for i in (0, 5, 11):
        stretch = slice(4 * i, 4 * i + 4)
        n = torch.tensor([4 * codec.hop_length])
        parts = (encoded.pitch[:, stretch], encoded.level[:, i : i + 1])
        alone = EncodedSpeech(encoded.codes[..., stretch], encoded.speaker, n, *parts, packet_frames=4)
        target = io.BytesIO()
        save_encoded(alone, target, codec)
        assert records_of(target.getvalue())[1][2:-4] == payloads[i]
