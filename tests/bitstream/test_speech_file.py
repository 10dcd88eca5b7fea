from __future__ import annotations

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from audiovq.bitstream import decode_file, encode_file, inspect_file, load_encoded, save_encoded
from audiovq.bitstream.container import ContainerReader, ContainerWriter, End
from audiovq.bitstream.speech_layout import SpeechHeader
from audiovq.bitstream.speech_reader import SpeechReader
from audiovq.errors import AudioVQError
from tests import packets as speech_packets
from tests.fake_codec import FakeCodec
from tests.packets import LEVEL, PITCH, side_size

CODEC = FakeCodec()
PACKET = 0.4  # seconds
HEADER = 39  # bytes of a mono file's header
RECORD = 107 + side_size(20)  # 2 bytes of length, 1 of index, level and pitch, 100 of codes, 4 of checksum


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def wav(path, seconds=2.13, rate=16000, channels=1, seed=0, **options):
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    soundfile.write(path, samples, rate, **options)
    return path


def encoded(source, **options):
    out = io.BytesIO()
    report = encode_file(source, out, CODEC, **options)
    assert report.n_bytes == len(out.getvalue())
    return out.getvalue()


def decoded(data, **options):
    out = io.BytesIO()
    report = decode_file(io.BytesIO(data), out, CODEC, **options)
    samples, rate = soundfile.read(io.BytesIO(out.getvalue()), dtype="int16", always_2d=True)
    return samples, rate, report


def codes_of(data):
    return np.concatenate([speech_packets.codes_of(p) for p in SpeechReader(io.BytesIO(data)).packets()], axis=-1)


class Dribble:
    """A pipe in tiny pieces."""

    def __init__(self, data, largest, seed=0):
        self._data, self._largest, self._rng, self._position = data, largest, np.random.default_rng(seed), 0

    def read(self, size=-1):
        size = min(size if size > 0 else self._largest, int(self._rng.integers(1, self._largest + 1)))
        piece = self._data[self._position : self._position + size]
        self._position += len(piece)
        return piece


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_rate_channels_and_length_come_back(folder, rate, channels):
    for seconds in (0.01, PACKET, 1.237):
        source = wav(folder / "a.wav", seconds, rate, channels)
        samples, found_rate, report = decoded(encoded(source))
        assert found_rate == rate
        assert samples.shape == (round(seconds * rate), channels)
        assert report.seconds == pytest.approx(seconds, abs=1 / rate)


def test_one_sample_is_coded(folder):
    for rate in (8000, 16000, 96000):
        data = encoded(wav(folder / "a.wav", 1 / rate, rate))
        assert decoded(data)[0].shape == (1, 1)


def test_bytes_do_not_depend_on_how_the_audio_arrives(folder):
    for rate, channels in ((16000, 1), (44100, 2), (8000, 3)):
        source = wav(folder / "a.wav", 1.5, rate, channels)
        data = encoded(source)
        assert encoded(str(source)) == data
        for largest in (7, 500, 1 << 20):
            assert encoded(Dribble(source.read_bytes(), largest)) == data
        streaming = bytearray(source.read_bytes())
        streaming[4:8] = streaming[40:44] = b"\xff" * 4
        assert encoded(io.BytesIO(bytes(streaming))) == data


def test_samples_do_not_depend_on_how_the_file_arrives(folder):
    data = encoded(wav(folder / "a.wav", 1.5, 22050, 2))
    whole, pieces = io.BytesIO(), io.BytesIO()
    decode_file(io.BytesIO(data), whole, CODEC)
    decode_file(Dribble(data, 5), pieces, CODEC)
    assert whole.getvalue() == pieces.getvalue()


def test_channels_are_coded_on_their_own(folder):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (20000, 3)).astype(np.float32)
    soundfile.write(folder / "all.wav", samples, 22050, subtype="FLOAT")
    together = codes_of(encoded(folder / "all.wav"))
    for channel in range(3):
        soundfile.write(folder / "one.wav", samples[:, channel], 22050, subtype="FLOAT")
        assert np.array_equal(codes_of(encoded(folder / "one.wav"))[0], together[channel])
    soundfile.write(folder / "one.wav", samples.mean(axis=1), 22050, subtype="FLOAT")
    assert encoded(folder / "all.wav", mono=True) == encoded(folder / "one.wav")


def test_dual_mono_costs_next_to_nothing(folder):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    soundfile.write(folder / "mono.wav", samples, 16000)
    soundfile.write(folder / "dual.wav", np.stack([samples, samples], axis=1), 16000)
    mono, dual = encoded(folder / "mono.wav"), encoded(folder / "dual.wav")
    n_packets = 3
    assert len(dual) <= len(mono) + 1 + 2 * n_packets
    samples = decoded(dual)[0]
    assert np.array_equal(samples[:, 0], samples[:, 1])


def test_number_of_codebooks(folder):
    source = wav(folder / "a.wav")
    for n in (1, 8):
        assert codes_of(encoded(source, n_codebooks=n)).shape[1] == n


def test_samples_beyond_full_scale_are_clipped_and_counted(folder):
    loud = np.array([0.5, 1.5, -3.0, 1.0] * 1000)
    soundfile.write(folder / "loud.wav", loud, 16000, subtype="FLOAT")
    soundfile.write(folder / "clipped.wav", loud.clip(-1, 1), 16000, subtype="FLOAT")
    out = io.BytesIO()
    assert encode_file(folder / "loud.wav", out, CODEC).n_clipped == 2000
    assert out.getvalue() == encoded(folder / "clipped.wav")


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_nan_and_infinity_are_refused_with_the_place(folder, value, name):
    samples = np.zeros((48000, 2), np.float32)
    samples[36000, 1] = value
    soundfile.write(folder / "bad.wav", samples, 48000, subtype="FLOAT")
    with pytest.raises(AudioVQError, match=rf"bad.wav: has {name} samples of channel 2 at 0.750 s"):
        encode_file(folder / "bad.wav", folder / "bad.avq", CODEC)
    with pytest.raises(AudioVQError, match=r"0.750 s"):
        encode_file(io.BytesIO((folder / "bad.wav").read_bytes()), folder / "bad.avq", CODEC)
    assert [p.name for p in folder.iterdir()] == ["bad.wav"]


def test_flips_and_truncations_are_detected_or_harmless(folder):
    data = encoded(wav(folder / "a.wav", 2.9, 22050, 2))
    right = codes_of(data)
    rng = np.random.default_rng(7)
    detected = 0
    for i in range(1000):
        damaged = bytearray(data)
        if i % 4 == 0:
            damaged = damaged[: int(rng.integers(len(data)))]
        else:
            for _ in range(i % 3 + 1):
                damaged[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        try:
            found = load_codes(bytes(damaged))
        except AudioVQError:
            detected += 1
            continue
        assert np.array_equal(found, right)
    assert detected > 950


def load_codes(data):
    reader = SpeechReader(io.BytesIO(data))
    reader.expect(CODEC)
    return np.concatenate([speech_packets.codes_of(p) for p in reader.packets()], axis=-1)


def test_concealing_never_fails_on_damaged_packets_and_keeps_the_good_ones(folder):
    data = encoded(wav(folder / "a.wav", 2.9, 16000))
    right, _, _ = decoded(data)
    rng = np.random.default_rng(8)
    for _ in range(150):
        damaged = bytearray(data)
        position = int(rng.integers(HEADER, len(data)))
        damaged[position] ^= 1 << int(rng.integers(8))
        samples, _, report = decoded(bytes(damaged), conceal=True)
        assert len(report.damage) == 1
        packet = round(PACKET * 16000)
        hit = (position - HEADER) // RECORD
        for i in range(8):
            if i != hit and i * packet < len(samples):
                expected = right[i * packet : (i + 1) * packet]
                assert np.array_equal(samples[i * packet : (i + 1) * packet][: len(expected)], expected)
        if hit < 7:
            assert len(samples) == len(right)
            assert not samples[hit * packet : (hit + 1) * packet].any()
            assert report.damage == [f"{hit * PACKET:.2f} s to {(hit + 1) * PACKET:.2f} s is lost"]


def test_damage_is_told_with_its_time(folder):
    data = bytearray(encoded(wav(folder / "a.wav", 2.9)))
    data[HEADER + RECORD * 3 + 50] ^= 4
    with pytest.raises(AudioVQError, match=r"damaged: 1.20 s to 1.60 s is lost; --conceal decodes the rest$"):
        decoded(bytes(data))
    with pytest.raises(AudioVQError, match=r"cut off or altered from 0.80 s on; --conceal decodes the rest$"):
        decoded(bytes(data[: HEADER + RECORD * 2]))
    samples, _, report = decoded(bytes(data[: HEADER + RECORD * 2]), conceal=True)
    assert len(samples) == 2 * round(PACKET * 16000)
    assert report.damage == ["cut off or altered from 0.80 s on"]
    with pytest.raises(AudioVQError, match="nothing in it can be decoded"):
        decoded(bytes(data[:60]), conceal=True)


def test_the_last_packet_s_loss_ends_where_the_recording_does(folder):
    data = bytearray(encoded(wav(folder / "a.wav", 2.9)))
    data[HEADER + RECORD * 7 + 3] ^= 4
    with pytest.raises(AudioVQError, match=r"2.80 s to 2.90 s is lost; --conceal"):
        decoded(bytes(data))
    samples, _, report = decoded(bytes(data), conceal=True)
    assert (len(samples), report.damage) == (46400, ["2.80 s to 2.90 s is lost"])


@pytest.mark.parametrize("seconds", [2.9, 2.8])
def test_an_end_that_is_missing_is_no_lost_packet(folder, seconds):
    """With a last packet that is short, and one that is full: then nobody can know that nothing followed."""
    data = encoded(wav(folder / "a.wav", seconds))
    size = len(data) - 1 - 1 - 3 - 4  # the end record: its tag, its index, a number of three bytes, its checksum
    altered = bytearray(data)
    altered[-2] ^= 1
    for damaged in (*(data[:n] for n in range(size, len(data))), bytes(altered)):
        known = seconds == 2.9 or len(damaged) > size
        word = f"its end record is cut off or altered; speech is there up to {seconds:.2f} s"
        word = word if known else f"cut off or altered from {seconds:.2f} s on"
        with pytest.raises(AudioVQError, match=f"{word}; --conceal decodes the rest$"):
            decoded(damaged)
        samples, _, report = decoded(damaged, conceal=True)
        assert report.damage == [word]
        assert len(samples) == round(seconds * 16000)


def test_no_rest_is_promised_where_there_is_none(folder):
    data = bytearray(encoded(wav(folder / "a.wav", 0.3)))  # one packet
    data[HEADER + 20] ^= 1
    for damaged in (bytes(data), bytes(data[: HEADER + 30])):
        with pytest.raises(AudioVQError) as error:
            decoded(damaged)
        assert "conceal" not in str(error.value)
        with pytest.raises(AudioVQError, match="nothing in it can be decoded"):
            decoded(damaged, conceal=True)


def test_lengths_that_do_not_fit_are_damage(folder):
    from audiovq.bitstream.container import ContainerReader, ContainerWriter, Packet

    data = encoded(wav(folder / "a.wav", 1.0))
    source = ContainerReader(io.BytesIO(data))
    layout = SpeechReader(io.BytesIO(data)).header
    packets = [r for r in source.records(layout.valid_length) if isinstance(r, Packet)]
    for order, extent in ((packets, 17000), (packets, 0), (packets, 1 << 50), ([*packets, packets[0]], 22400)):
        out = io.BytesIO()
        writer = ContainerWriter(out, source.header)
        for packet in order:
            writer.write_packet(packet.payload, packet.short)
        writer.finish(extent)
        for conceal in (False, True):
            with pytest.raises(AudioVQError):
                decoded(out.getvalue(), conceal=conceal)


def test_another_model_is_named(folder):
    encode_file(wav(folder / "a.wav"), folder / "a.avq", FakeCodec("first"))
    other = FakeCodec("second")
    with pytest.raises(AudioVQError, match=r"a.avq: was written by model \w{8}, not by second"):
        decode_file(folder / "a.avq", folder / "b.wav", other)
    decode_file(folder / "a.avq", folder / "b.wav", lambda model_hash: FakeCodec("first"))
    assert soundfile.info(folder / "b.wav").frames == 34080


def test_formats_by_suffix(folder):
    data = encoded(wav(folder / "a.wav", 1.0, 48000, 2))
    for suffix in ("wav", "flac", "ogg", "opus", "mp3", "aiff"):
        decode_file(io.BytesIO(data), folder / f"out.{suffix}", CODEC)
        found = soundfile.info(folder / f"out.{suffix}")
        assert (found.samplerate, found.channels, found.frames) == (48000, 2, 48000)
    with pytest.raises(AudioVQError, match=r"cannot write .xyz"):
        decode_file(io.BytesIO(data), folder / "out.xyz", CODEC)


def test_save_and_load(folder):
    from audiovq.interfaces import EncodedSpeech

    rng = np.random.default_rng(0)
    encoded_speech = EncodedSpeech(
        codes=torch.from_numpy(rng.integers(0, 1024, (2, 4, 47))),
        speaker=torch.from_numpy(rng.integers(0, 16, (2, 32))),
        n_samples=torch.tensor([15000, 15000]),
        pitch=torch.full((2, 47), PITCH),
        level=torch.full((2, 3), LEVEL),
    )
    for target in (folder / "a.avq", io.BytesIO()):
        save_encoded(encoded_speech, target, CODEC)
        if isinstance(target, io.BytesIO):
            target.seek(0)
        found = load_encoded(target, CODEC)
        assert torch.equal(found.codes, encoded_speech.codes)
        assert torch.equal(found.speaker, encoded_speech.speaker)
        assert torch.equal(found.n_samples, encoded_speech.n_samples)
    encoded_speech.n_samples[1] = 14000
    with pytest.raises(AudioVQError, match="one by one"):
        save_encoded(encoded_speech, io.BytesIO(), CODEC)


def test_a_real_codec_goes_through_a_file(codec, speech, folder):
    soundfile.write(folder / "a.wav", speech.numpy(), 16000, subtype="FLOAT")
    encode_file(folder / "a.wav", folder / "a.avq", codec)
    loaded = load_encoded(folder / "a.avq", codec)
    direct = codec.encode(speech.clamp(-1, 1)[None, None])
    assert torch.equal(loaded.codes, direct.codes)
    assert torch.equal(loaded.speaker, direct.speaker)
    assert torch.equal(loaded.n_samples, direct.n_samples)
    save_encoded(direct, folder / "b.avq", codec)
    assert (folder / "b.avq").read_bytes() == (folder / "a.avq").read_bytes()
    decode_file(folder / "a.avq", folder / "a.out.wav", codec)
    samples, _ = soundfile.read(folder / "a.out.wav", dtype="int16")
    expected = np.clip(np.rint(codec.decode(direct)[0, 0].numpy() * 32768), -32768, 32767)
    assert np.array_equal(samples, expected.astype(np.int16))


def test_inspection_needs_no_model(folder):
    encode_file(wav(folder / "a.wav", 2.9, 44100, 2), folder / "a.avq", CODEC)
    found = inspect_file(folder / "a.avq")
    assert (found.sample_rate, found.channels, found.samples) == (44100, 2, 127890)
    assert (found.codebooks, found.bits_per_code, found.packets, found.frames) == (4, 10, 8, 145)
    assert found.bytes == (folder / "a.avq").stat().st_size
    assert found.kbps == pytest.approx(found.bytes * 8 / 2900)
    assert found.damage is None
    data = (folder / "a.avq").read_bytes()
    cut = inspect_file(io.BytesIO(data[:-5]))
    assert cut.samples is None
    assert cut.damage == "its end record is cut off or altered; packets are there"
    assert cut.bytes == len(data) - 5


def test_inspection_goes_on_behind_damage(folder):
    encode_file(wav(folder / "a.wav", 2.9), folder / "a.avq", CODEC)
    data = bytearray((folder / "a.avq").read_bytes())
    data[HEADER + RECORD * 3 + 50] ^= 4
    data[HEADER + RECORD * 5 + 50] ^= 4
    (folder / "a.avq").write_bytes(data)
    found = inspect_file(folder / "a.avq", clock_of=lambda model_hash: (16000, 320))
    assert (found.samples, found.seconds, found.bytes, found.packets) == (46400, 2.9, len(data), 6)
    assert found.damage == "1.20 s to 1.60 s is lost; 2.00 s to 2.40 s is lost"
    assert found.lost_seconds == [(pytest.approx(1.2), pytest.approx(1.6)), (pytest.approx(2.0), pytest.approx(2.4))]
    blind = inspect_file(folder / "a.avq")
    assert (blind.samples, blind.damage) == (46400, "packet 4 is lost; packet 6 is lost")
    (folder / "b.avq").write_bytes(data + b"more")
    more = inspect_file(folder / "b.avq", clock_of=lambda model_hash: (16000, 320))
    assert more.bytes == len(data) + 4
    assert "behind its end" in more.damage


def test_memory_does_not_grow_with_length(folder):
    import tracemalloc

    def peak(seconds):
        wav(folder / "a.wav", seconds)
        tracemalloc.start()
        encode_file(folder / "a.wav", folder / "a.avq", CODEC)
        decode_file(folder / "a.avq", folder / "b.wav", CODEC)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(1)
    assert peak(180) < peak(60) + (1 << 18)


@pytest.mark.skipif(sys.platform == "win32", reason="needs /dev/full")
def test_a_full_disk_is_told_in_one_line(folder):
    data = encoded(wav(folder / "a.wav"))
    with pytest.raises(AudioVQError, match="/dev/full: cannot be written: no space left on device"):
        decode_file(io.BytesIO(data), "/dev/full", CODEC)
    with pytest.raises(AudioVQError, match="no space left"):
        encode_file(folder / "a.wav", "/dev/full", CODEC)


@pytest.mark.parametrize("change", [{"speakers": np.ones((1, 12), np.int64)}, {"speaker_bits": 5}])
def test_speaker_vectors_that_the_model_does_not_have(folder, change):
    """A header may be whole, and still not of this model."""
    reader, out = ContainerReader(io.BytesIO(encoded(wav(folder / "a.wav")))), io.BytesIO()
    header = replace(SpeechHeader.from_container(reader.header), **change)
    writer = ContainerWriter(out, header.to_container())
    for record in reader.records(header.valid_length):
        if isinstance(record, End):
            writer.finish(record.extent)
        else:
            writer.write_packet(record.payload, record.short)
    with pytest.raises(AudioVQError, match="does not fit its model fake"):
        decoded(out.getvalue())
