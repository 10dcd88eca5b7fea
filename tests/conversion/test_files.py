"""Another voice for a file: the header alone changes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from audiovq.bitstream import decode_file, encode_file, inspect_file, load_encoded
from audiovq.bitstream.container import ContainerReader, Packet
from audiovq.bitstream.speech_layout import SpeechHeader
from audiovq.conversion.files import Conversion, convert_audio, is_avq, swap_speaker
from audiovq.conversion.pitch import PitchMover
from audiovq.errors import AudioVQError
from tests.bitstream.test_speech_file import CODEC, Dribble, codes_of, encoded, wav
from tests.evaluation.conftest import voice

OTHER = np.arange(32) % 16


def conversion(pitch="keep", target_hz=None):
    return Conversion(OTHER, PitchMover(pitch, target_hz))


def swapped(data, vector=OTHER):
    out = io.BytesIO()
    report = swap_speaker(io.BytesIO(data) if isinstance(data, bytes) else data, out, vector)
    assert report.n_bytes == len(out.getvalue())
    return out.getvalue()


def payloads(data):
    reader = ContainerReader(io.BytesIO(data))
    header = SpeechHeader.from_container(reader.header)
    return header, [(r.index, r.payload, r.short) for r in reader.records(header.valid_length) if isinstance(r, Packet)]


@pytest.mark.parametrize("channels", [1, 3])
def test_packets_stay_byte_for_byte(tmp_path, channels):
    data = encoded(wav(tmp_path / "a.wav", channels=channels, rate=44100))
    new = swapped(data)
    (before, old_packets), (after, new_packets) = payloads(data), payloads(new)
    assert old_packets == new_packets
    assert np.array_equal(after.speakers, np.tile(OTHER, (channels, 1)))
    assert (before.sample_rate, before.n_codebooks, before.model_hash) == (44100, 4, after.model_hash)
    assert np.array_equal(codes_of(data), codes_of(new))
    assert inspect_file(io.BytesIO(new)).damage is None


def test_swapping_back_gives_the_file_again(tmp_path):
    data = encoded(wav(tmp_path / "a.wav"))
    own = payloads(data)[0].speakers[0]
    assert swapped(swapped(data), own) == data


def test_the_voice_may_depend_on_the_model(tmp_path):
    data = encoded(wav(tmp_path / "a.wav"))
    asked = []
    assert swapped(data, lambda model_hash: asked.append(model_hash) or OTHER) == swapped(data)
    assert asked == [CODEC.model_hash]


def test_a_file_that_dribbles_in(tmp_path):
    data = encoded(wav(tmp_path / "a.wav"))
    assert swapped(Dribble(data, 50)) == swapped(data)


@pytest.mark.parametrize("vector", [np.zeros(31), np.full(32, 16), np.zeros(0)])
def test_a_vector_that_does_not_fit(tmp_path, vector):
    with pytest.raises(AudioVQError, match="does not fit"):
        swapped(encoded(wav(tmp_path / "a.wav")), vector)


def test_damage_is_told_and_leaves_nothing(tmp_path):
    data = bytearray(encoded(wav(tmp_path / "a.wav")))
    data[200] ^= 1
    (tmp_path / "a.avq").write_bytes(data)
    with pytest.raises(AudioVQError, match="damaged"):
        swap_speaker(tmp_path / "a.avq", tmp_path / "b.avq", OTHER)
    with pytest.raises(AudioVQError, match="cut off"):
        swapped(bytes(data[:150]))
    assert not (tmp_path / "b.avq").exists()


@pytest.mark.parametrize(("rate", "channels", "seconds"), [(16000, 1, 0.01), (16000, 2, 2.13), (44100, 1, 3.3)])
def test_converted_audio_is_what_the_swapped_file_decodes_to(tmp_path, rate, channels, seconds):
    source = wav(tmp_path / "a.wav", seconds, rate, channels)
    there, back = io.BytesIO(), io.BytesIO()
    report = convert_audio(source, there, CODEC, conversion(), 2)
    decode_file(io.BytesIO(swapped(encoded(source, n_codebooks=2))), back, CODEC)
    assert there.getvalue() == back.getvalue()
    assert report.seconds == pytest.approx(seconds, abs=1 / rate)


def test_conversion_does_not_depend_on_how_the_audio_arrives(tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(12.0), 16000)
    data = (tmp_path / "a.wav").read_bytes()
    results = []
    for source in (tmp_path / "a.wav", Dribble(data, 5000)):
        out = io.BytesIO()
        convert_audio(source, out, CODEC, conversion("auto", 180.0))
        results.append(soundfile.read(io.BytesIO(out.getvalue()), dtype="int16")[0])
    assert len(results[0]) == 12 * 16000
    assert np.array_equal(*results)


def test_audio_becomes_a_coded_file_of_the_other_speaker(tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(6.0), 16000)
    plain, converted = encoded(tmp_path / "a.wav"), io.BytesIO()
    encode_file(tmp_path / "a.wav", converted, CODEC, conversion=conversion(3.0))
    assert np.array_equal(payloads(converted.getvalue())[0].speakers[0], OTHER)
    assert np.array_equal(codes_of(converted.getvalue()), codes_of(plain))
    before, after = (load_encoded(io.BytesIO(data), CODEC).pitch for data in (plain, converted.getvalue()))
    assert (after - before == 12).all()


def test_what_begins_like_a_file(tmp_path):
    data = encoded(wav(tmp_path / "a.wav"))
    stream = io.BytesIO(data)
    assert is_avq(stream)
    assert stream.read() == data
    assert not is_avq(tmp_path / "a.wav")
    assert not is_avq(io.BytesIO(b"RIFF"))
