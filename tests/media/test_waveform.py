from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from audiovq.errors import AudioVQError
from audiovq.media.waveform import Resampler, create_audio, n_resampled, resample
from tests.media.audio import Pipe, read

RNG = np.random.default_rng(0)
SAMPLES = RNG.uniform(-0.9, 0.9, (9000, 2))


@pytest.mark.parametrize(
    ("name", "subtype"),
    [
        *[("a.wav", s) for s in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW")],
        ("a.flac", "PCM_24"),
        ("a.ogg", "VORBIS"),
        ("a.mp3", "MPEG_LAYER_III"),
        ("a.aiff", "PCM_16"),
    ],
)
def test_every_format_from_a_file_and_from_a_pipe(tmp_path, name, subtype):
    path = tmp_path / name
    soundfile.write(path, SAMPLES, 48000, subtype=subtype)
    expected = soundfile.read(path, dtype="float32")[0].clip(-1, 1)
    for source in (path, str(path), Pipe(path.read_bytes())):
        found, audio = read(source)
        assert np.array_equal(found, expected)
        assert (audio.sample_rate, audio.n_channels, audio.n_read) == (48000, 2, len(expected))
        assert found.dtype == np.float32


def test_wav_with_open_sizes_more_chunks_and_extensible_form(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, SAMPLES, 16000, subtype="PCM_16")
    expected, _ = read(path)
    data = path.read_bytes()
    head, body = data[12:36], data[44:]
    note = b"LIST" + (5).to_bytes(4, "little") + b"abcde\0"
    for riff, size, tail in (
        (b"\xff" * 4, b"\xff" * 4, b""),
        (b"\0" * 4, b"\0" * 4, b""),
        (data[4:8], data[40:44], note),
    ):
        wav = b"RIFF" + riff + b"WAVE" + note + head + note + b"data" + size + body + tail
        assert np.array_equal(read(Pipe(wav))[0], expected)
    # A frame that is cut in two at the end is dropped.
    assert len(read(Pipe(data[:-3]))[0]) == len(expected) - 1
    soundfile.write(path, SAMPLES, 16000, format="WAVEX", subtype="PCM_24")
    assert np.array_equal(read(Pipe(path.read_bytes()))[0], soundfile.read(path, dtype="float32")[0])


@pytest.mark.parametrize(
    "junk", [b"", b"hello, I am text", b"RIFF", b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WAVEfmt ", b"fLaC" * 9]
)
def test_what_is_not_audio_is_refused(tmp_path, junk):
    (tmp_path / "a.wav").write_bytes(junk)
    for source in (tmp_path / "a.wav", Pipe(junk)):
        with pytest.raises(AudioVQError):
            read(source)


def test_random_damage_of_a_wav_header_is_harmless(tmp_path):
    soundfile.write(tmp_path / "a.wav", SAMPLES[:50], 16000, subtype="PCM_16")
    data = (tmp_path / "a.wav").read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(500):
        damaged = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            damaged[int(rng.integers(44))] = int(rng.integers(256))
        try:
            read(Pipe(bytes(damaged[: int(rng.integers(1, len(data) + 1))])))
        except AudioVQError:
            continue


def test_no_samples_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((0, 1)), 16000)
    for source in (tmp_path / "a.wav", Pipe((tmp_path / "a.wav").read_bytes())):
        with pytest.raises(AudioVQError, match="contains no audio samples"):
            read(source)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(AudioVQError, match="no such file"):
        read(tmp_path / "none.wav")
    with pytest.raises(AudioVQError, match="is a folder"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("source", "target"), [(44100, 16000), (8000, 16000), (96000, 16000), (16000, 22050), (16000, 16000)]
)
def test_resampling_does_not_depend_on_blocks(source, target):
    samples = RNG.standard_normal((30011, 2)).astype(np.float32)
    n = n_resampled(len(samples), source, target)
    whole = resample(samples, source, target)
    assert whole.shape == (n, 2)
    for largest in (1, 100, 20000):
        resampler, pieces, position = Resampler(source, target, 2), [], 0
        while position < len(samples):
            size = int(RNG.integers(0, largest + 1)) if largest > 1 else 13
            pieces.append(resampler.push(samples[position : position + size]))
            position += size
        pieces.append(resampler.finish(n))
        assert np.array_equal(np.concatenate(pieces), whole)
    assert np.array_equal(resample(samples[:, 1], source, target), whole[:, 1])


def test_resampling_keeps_a_tone_where_it_is():
    time = np.arange(44100) / 44100
    found = resample(np.sin(2 * np.pi * 440 * time).astype(np.float32), 44100, 16000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(found - expected)[200:-200].max() < 1e-3


def test_lengths_are_rounded_up_and_restored():
    for rate in (1000, 8000, 11025, 44100, 96000, 768000):
        for n in (1, 2, 17, 1000):
            at_model = n_resampled(n, rate, 16000)
            assert at_model >= 1
            assert n_resampled(at_model, 16000, rate) >= n
            samples = resample(np.ones(n, np.float32), rate, 16000)
            assert len(samples) == at_model


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_wav_is_written_exactly(tmp_path, channels):
    samples = RNG.uniform(-1.2, 1.2, (5000, channels)).astype(np.float32)
    expected = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    stream = io.BytesIO()
    for target in (tmp_path / "a.wav", tmp_path / "a.flac", stream):
        with create_audio(target, 22050, channels) as writer:
            for i in range(0, 5000, 777):
                writer.write(samples[i : i + 777])
    for source in (tmp_path / "a.wav", tmp_path / "a.flac", io.BytesIO(stream.getvalue())):
        found, rate = soundfile.read(source, dtype="int16", always_2d=True)
        assert rate == 22050
        assert np.array_equal(found, expected)
    assert (tmp_path / "a.wav").read_bytes() == stream.getvalue()


def test_nothing_is_left_when_writing_fails(tmp_path):
    def fail(name):
        with create_audio(tmp_path / name, 16000, 1) as writer:
            writer.write(np.zeros((1000, 1)))
            raise AudioVQError("something else")

    for name in ("a.wav", "a.flac", "a.ogg"):
        with pytest.raises(AudioVQError, match=r"^something else$"):
            fail(name)
    with (
        pytest.raises(AudioVQError, match=r"b.mp3: .mp3 cannot hold 3 channels at 16000 Hz"),
        create_audio(tmp_path / "b.mp3", 16000, 3),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


LIMITS = {
    ".flac": [(655_360, 1, False), (655_350, 1, True), (65_537, 1, False), (384_000, 2, True), (48_000, 9, False)],
    ".ogg": [(200_001, 1, False), (384_000, 2, False), (200_000, 1, True), (48_000, 256, False), (1000, 1, True)],
    ".opus": [(44_100, 1, False), (48_000, 2, True), (96_000, 1, False), (8000, 1, True), (48_000, 256, False)],
    ".mp3": [(96_000, 1, False), (48_000, 2, True), (48_000, 3, False), (1000, 1, False), (8000, 1, True)],
    ".wav": [(768_000, 1, True), (384_000, 300, True), (1000, 1, True)],
    ".aiff": [(768_000, 1, True), (384_000, 300, True), (1000, 1, True)],
}


@pytest.mark.parametrize("suffix", LIMITS)
def test_rates_and_channels_that_a_format_cannot_hold(tmp_path, suffix):
    for rate, channels, fits in LIMITS[suffix]:
        path = tmp_path / f"a{suffix}"
        if fits:
            with create_audio(path, rate, channels) as writer:
                writer.write(np.zeros((2000, channels), np.float32))
            found = soundfile.info(path)
            assert (found.samplerate, found.channels, found.frames) == (rate, channels, 2000)
            path.unlink()
            continue
        plural = "s" if channels > 1 else ""
        message = f"{suffix} cannot hold {channels} channel{plural} at {rate} Hz; write .wav instead"
        with pytest.raises(AudioVQError, match=message), create_audio(path, rate, channels):
            pass
        assert list(tmp_path.iterdir()) == []
