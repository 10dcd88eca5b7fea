"""Audio without a header."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from audiovq.errors import AudioVQError
from audiovq.media.samples import FORMATS, RawFormat, from_float, to_float
from audiovq.media.waveform import create_audio
from tests.media.audio import read_bytes, refusal

RNG = np.random.default_rng(0)
SAMPLES = RNG.uniform(-1.1, 1.1, (3001, 2)).astype(np.float32)
SOUNDFILE = {"s8": "PCM_S8", "u8": "PCM_U8", "s24le": "PCM_24", "s32le": "PCM_32", "f32le": "FLOAT", "f64le": "DOUBLE"}


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_are_those_of_libsndfile(name):
    stream = io.BytesIO()
    coding, endian = SOUNDFILE.get(name, "PCM_16"), "BIG" if name.endswith("be") else "LITTLE"
    clipped = np.clip(SAMPLES, -1, 1)
    soundfile.write(stream, clipped, 16000, format="RAW", subtype=coding, endian="FILE" if "8" in name else endian)
    theirs = stream.getvalue()
    values = to_float(theirs, name)
    stream.seek(0)
    expected, _ = soundfile.read(
        stream, dtype="float32", format="RAW", subtype=coding, samplerate=16000, channels=2,
        endian="FILE" if "8" in name else endian,
    )  # fmt: skip
    assert np.array_equal(values.reshape(-1, 2), expected)
    assert from_float(values, name) == theirs
    step = 2.0 ** (1 - 8 * FORMATS[name][1]) if name[0] != "f" else 0
    found = to_float(from_float(SAMPLES, name), name).reshape(-1, 2)
    assert np.abs(found - (clipped if step else SAMPLES)).max() <= max(step, 1e-7) * 1.01


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("n_channels", [1, 2, 3])
def test_raw_files_and_pipes(tmp_path, name, n_channels):
    block = to_float(from_float(SAMPLES[:3000].reshape(-1, n_channels) * 0.9, name), name).reshape(-1, n_channels)
    raw = RawFormat(name, 22050, n_channels)
    data = from_float(block, name)
    samples, remarks = read_bytes(data, tmp_path, "a.raw", raw=raw)
    assert np.array_equal(samples, block)
    assert remarks == []
    stream = io.BytesIO()
    for target in (tmp_path / "b.raw", stream, tmp_path / "b.pcm", tmp_path / "without suffix"):
        with create_audio(target, 22050, n_channels, raw) as writer:
            for i in range(0, len(block), 777):
                writer.write(block[i : i + 777])
        written = target.getvalue() if target is stream else target.read_bytes()
        assert written == data


@pytest.mark.parametrize("extra", [1, 2, 3, 5])
def test_bytes_that_are_left_over(tmp_path, extra):
    raw = RawFormat("s24le", 16000, 2)
    samples, remarks = read_bytes(bytes(600) + b"\1" * extra, tmp_path, "a.raw", raw=raw)
    assert len(samples) == 100
    assert len(remarks) == 1
    assert remarks[0].startswith(f"warning: {extra} of its bytes are left over, a sample of all channels takes 6")
    assert refusal(b"\1" * extra, tmp_path, "a.raw", raw=raw).startswith("contains no audio samples; warning:")


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "AIFF", "RF64"])
def test_what_has_a_header_is_not_raw(tmp_path, container):
    stream = io.BytesIO()
    soundfile.write(stream, SAMPLES, 16000, format=container)
    message = refusal(stream.getvalue(), tmp_path, "a.raw", raw=RawFormat("s16le", 16000, 1))
    assert "not raw audio; omit --raw" in message


def test_raw_audio_is_not_read_by_itself(tmp_path):
    assert "is not audio" in refusal(from_float(SAMPLES, "s16le"), tmp_path, "a.raw")


def test_formats_that_are_none(tmp_path):
    for name in ("s12le", "S16LE", "pcm", ""):
        with pytest.raises(AudioVQError, match="unknown sample format"):
            RawFormat(name, 16000, 1)
    for numbers in ((0, 1), (16000, 0), ()):
        assert "needs a sample rate" in refusal(bytes(100), tmp_path, "a.raw", raw=RawFormat("s16le", *numbers))
    assert "sample rate" in refusal(bytes(100), tmp_path, "a.raw", raw=RawFormat("u8", 10, 1))
    for name, told in (("a.wav", "name it .raw"), ("a.flac", "name it .raw")):
        with pytest.raises(AudioVQError, match=told), create_audio(tmp_path / name, 16000, 1, RawFormat("s16le")):
            pass
    with pytest.raises(AudioVQError, match="--raw writes it"), create_audio(tmp_path / "a.raw", 16000, 1):
        pass


def test_not_a_number_of_a_raw_float_file(tmp_path):
    data = np.array([0, 1, np.nan, 0.5], "<f4").tobytes()
    assert "NaN" in refusal(data, tmp_path, "a.raw", raw=RawFormat("f32le", 16000, 1))
