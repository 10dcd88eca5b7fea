"""Sound files that are cut off, damaged, or in containers: what is there is read, what is not is named."""

from __future__ import annotations

import io
import re
import struct

import numpy as np
import pytest
import soundfile

from tests.media.audio import read_bytes, refusal

RATE = 16000
TIME = np.arange(4 * RATE) / RATE
VOICE = (np.sin(2 * np.pi * 150 * TIME) * (0.4 + 0.3 * np.sin(2 * np.pi * 3 * TIME))).astype(np.float32)[:, None]
VOICE = (VOICE + np.random.default_rng(0).normal(0, 0.01, VOICE.shape)).astype(np.float32)


def written(container, coding, samples=VOICE, rate=RATE, **options):
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=container, subtype=coding, **options)
    return stream.getvalue()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_flac_that_is_cut_off(tmp_path, share):
    data = written("FLAC", "PCM_16")
    whole, remarks = read_bytes(data, tmp_path)
    assert (len(whole), remarks) == (64000, [])
    samples, remarks = read_bytes(data[: int(share * len(data))], tmp_path)
    assert share - 0.1 < len(samples) / 64000 < share
    assert np.array_equal(samples, whole[: len(samples)])
    assert len(remarks) == 1
    assert f"{len(samples) / RATE:.2f} s" in remarks[0]


def test_a_flac_that_is_damaged_in_between(tmp_path):
    data = bytearray(written("FLAC", "PCM_16"))
    for place in (len(data) // 3, len(data) // 2, len(data) * 3 // 4):
        damaged = data.copy()
        damaged[place] ^= 16
        message = refusal(bytes(damaged), tmp_path)
        assert message.startswith("cannot be decoded from ")
        seconds = float(message.split()[4])
        assert abs(seconds - 4 * place / len(data)) < 0.6


@pytest.mark.parametrize(
    ("container", "coding"),
    [
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("W64", "PCM_24"),
        ("RF64", "PCM_16"),
        ("SVX", "PCM_16"),
        ("VOC", "PCM_16"),
        ("NIST", "PCM_16"),
        ("WAV", "ULAW"),
        ("WAV", "MS_ADPCM"),
        ("WAV", "GSM610"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
def test_other_formats_that_are_cut_off(tmp_path, container, coding):
    data = written(container, coding, VOICE, 8000 if coding == "GSM610" else RATE)
    whole, remarks = read_bytes(data, tmp_path)
    assert remarks == []
    samples, remarks = read_bytes(data[: len(data) // 2], tmp_path)
    assert 0.2 < len(samples) / len(whole) < 0.6
    assert len(remarks) == 1
    assert remarks[0].startswith("warning: ")


#: Size of the audio by the header of files with 128,000 bytes of it: its layout, and what else it counts.
SIZES = {"AU": (">I", 0), "CAF": (">q", 4), "AIFF": (">I", 8), "RF64": ("<q", 0)}


def resized(data, container, n_bytes):
    layout, more = SIZES[container]
    before, place, behind = data.partition(struct.pack(layout, 128_000 + more))
    assert place
    return before + struct.pack(layout, n_bytes + more) + behind


@pytest.mark.parametrize("container", SIZES)
@pytest.mark.parametrize("n_bytes", [2, 64_000, 127_000])
def test_bytes_behind_the_end_that_a_header_states(tmp_path, container, n_bytes):
    data = written(container, "PCM_16")
    whole, remarks = read_bytes(data, tmp_path)
    assert (len(whole), remarks) == (64_000, [])
    samples, (remark,) = read_bytes(resized(data, container, n_bytes), tmp_path)
    assert np.array_equal(samples, whole[: n_bytes // 2])
    left_out = int(remark.split()[1].replace(",", ""))
    assert 0 <= left_out + n_bytes - 128_000 <= 4
    assert "were left out" in remark
    message = refusal(resized(data, container, 0), tmp_path)
    assert message.startswith("contains no audio samples; warning: 128,0")


CHUNK = {"AU": b"", "CAF": struct.pack(">4sq", b"info", 40), "AIFF": struct.pack(">4sI", b"ANNO", 40)}
CHUNK["RF64"] = struct.pack("<4sI", b"LIST", 40)


@pytest.mark.parametrize("container", CHUNK)
def test_what_is_not_audio_behind_the_audio_of_other_formats(tmp_path, container):
    chunk = CHUNK[container] and CHUNK[container] + bytes(range(1, 41))
    for tail in (b"ID3\x03" + bytes(300), bytes(400), chunk):
        data = written(container, "PCM_16") + tail
        if container == "AIFF":
            data = data[:4] + struct.pack(">I", len(data) - 8) + data[8:]
        elif container == "RF64":
            data = data[:20] + struct.pack("<Q", len(data) - 8) + data[28:]
        samples, remarks = read_bytes(data, tmp_path)
        assert (len(samples), remarks) == (64_000, [])


@pytest.mark.parametrize("size", [-1, -(2**63), 2**63 - 1, 2**62])
def test_sizes_of_no_file(tmp_path, size):
    data = written("CAF", "PCM_16")
    place = data.index(b"data") + 4
    changed = data[:place] + struct.pack(">q", size) + data[place + 8 :]
    if size < 0:  # as for -1, which leaves it open
        pytest.importorskip("av")
        assert len(read_bytes(changed, tmp_path)[0]) == 64_000
    else:
        assert "CAF file" in refusal(changed, tmp_path)
        data = written("RF64", "PCM_16")
        assert len(read_bytes(data[:28] + struct.pack("<q", size) + data[36:], tmp_path)[0]) == 64_000


@pytest.mark.parametrize("coding", ["OPUS", "VORBIS"])
@pytest.mark.parametrize("n", [1, 100, 319, 320, 321, 959, 961, 20_001])
def test_last_pages_of_any_length(tmp_path, coding, n):
    samples, remarks = read_bytes(written("OGG", coding, VOICE[:n]), tmp_path)
    assert (len(samples), remarks) == (n, [])


def test_an_mp3_that_does_not_say_how_long_it_is(tmp_path):
    """Its bitrate varies: by its first frames it would be far shorter."""
    quiet = np.random.default_rng(0).normal(0, 1, (10 * RATE, 1)) * np.repeat([0.3, 1e-5], 5 * RATE)[:, None]
    data = written("MP3", "MPEG_LAYER_III", quiet.clip(-1, 1), bitrate_mode="VARIABLE", compression_level=0.5)
    whole, remarks = read_bytes(data, tmp_path)
    assert (len(whole), remarks) == (10 * RATE, [])
    assert b"Xing" in data[:200]
    second = data.index(data[:2], 100)
    samples, remarks = read_bytes(data[second:], tmp_path)
    assert 10 * RATE <= len(samples) <= 10 * RATE + 3000
    assert remarks == []
    tagged = b"ID3\x03\0\0\0\0\x02\0" + bytes(256) + data[second:]
    assert np.array_equal(read_bytes(tagged, tmp_path)[0], samples)


def test_the_damage_of_a_header_is_not_said_to_be_another_format(tmp_path):
    assert "damaged or truncated" in refusal(written("OGG", "VORBIS")[:300], tmp_path)


def test_a_caf_that_leaves_its_size_open_or_is_cut_off(tmp_path):
    """libsndfile refuses both; the first is what recorders write to a pipe."""
    pytest.importorskip("av")
    data = written("CAF", "PCM_16")
    place = data.index(b"data") + 4
    endless = data[:place] + struct.pack(">q", -1) + data[place + 8 :]
    whole, remarks = read_bytes(data, tmp_path, "a.caf")
    assert (len(whole), remarks) == (4 * RATE, [])
    samples, remarks = read_bytes(endless, tmp_path, "a.caf")
    assert np.array_equal(samples, whole)
    assert remarks == []
    samples, remarks = read_bytes(data[:-RATE], tmp_path, "a.caf")
    assert np.array_equal(samples, whole[: len(samples)])
    assert len(samples) == 3.5 * RATE
    assert remarks == [f"warning: its end is missing: its header states {RATE:,} bytes more"]
    assert "no audio samples" in refusal(written("CAF", "ALAC_16")[:3000], tmp_path, "a.caf")


@pytest.mark.parametrize("container", ["MAT4", "MAT5"])
@pytest.mark.parametrize("coding", ["PCM_16", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
def test_matlab_files_that_are_cut_off(tmp_path, container, coding, order):
    """libsndfile says nothing of them."""
    path = tmp_path / "a.mat"
    soundfile.write(path, VOICE, RATE, format=container, subtype=coding, endian=order)
    data = path.read_bytes()
    whole, remarks = read_bytes(data, tmp_path)
    assert (len(whole), remarks) == (len(VOICE), [])
    samples, remarks = read_bytes(data[:-40_000], tmp_path)
    assert 0 < len(samples) < len(whole)
    assert remarks == ["warning: its end is missing: its header states 40,000 bytes more"]


def media(container, codec, seconds=4.0, images=False, rate=RATE):
    """A file made by PyAV: a tone, and frames where wanted."""
    av = pytest.importorskip("av")
    from fractions import Fraction

    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as out:
        video = out.add_stream("mpeg4", rate=10, width=32, height=16, pix_fmt="yuv420p") if images else None
        sound = out.add_stream(codec, rate=rate, layout="mono") if codec else None
        if sound is not None:
            sound.bit_rate = 64000
        if video is not None:
            for i in range(round(10 * seconds)):
                frame = np.full((16, 32, 3), 6 * i, np.uint8)
                out.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(video.encode())
        if sound is not None:
            samples = np.resize(VOICE[:, 0], round(seconds * rate))
            resampler = av.AudioResampler(format=sound.codec_context.format, layout="mono", rate=rate)
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
            fifo = av.AudioFifo()
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                fifo.write(part)
            size = sound.codec_context.frame_size or 1024
            while (part := fifo.read(size) or fifo.read(partial=True)) is not None:
                out.mux(sound.encode(part))
            out.mux(sound.encode())
    return stream.getvalue()


CONTAINERS = {
    "a.m4a": ("mp4", "aac", 16000),
    "a.aac": ("adts", "aac", 16000),
    "a.3gp": ("3gp", "aac", 16000),
    "a.webm": ("webm", "libopus", 48000),
    "a.mka": ("matroska", "libopus", 48000),
    "a.ts": ("mpegts", "aac", 16000),
    "b.m4a": ("ipod", "alac", 16000),
    "a.wma": ("asf", "wmav2", 44100),
    "a.avi": ("avi", "pcm_s16le", 16000),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_that_pyav_reads(tmp_path, name):
    container, codec, rate = CONTAINERS[name]
    data = media(container, codec, rate=rate)
    samples, remarks = read_bytes(data, tmp_path, name)
    assert remarks == []
    assert samples.dtype == np.float32
    exact = container in ("mp4", "3gp", "ipod", "avi")
    assert abs(len(samples) - 4 * rate) <= (0 if exact else 0.1 * rate)
    tone = np.resize(VOICE[:, 0], 4 * rate)
    lag = np.arange(-2500, 2500)[
        np.argmax(
            [np.dot(samples[rate : rate + 8000, 0], tone[rate - k : rate - k + 8000]) for k in range(-2500, 2500)]
        )
    ]
    aligned = samples[rate : rate + 8000, 0], tone[rate - lag : rate - lag + 8000]
    assert np.corrcoef(*aligned)[0, 1] > 0.95
    assert not exact or abs(lag) < 40


@pytest.mark.parametrize("name", ["a.aac", "a.webm", "a.mka", "a.wma", "a.avi"])
def test_containers_that_are_cut_off(tmp_path, name):
    container, codec, rate = CONTAINERS[name]
    data = media(container, codec, rate=rate)
    samples, remarks = read_bytes(data[: len(data) * 6 // 10], tmp_path, name)
    assert 1.8 * rate < len(samples) < 2.6 * rate
    assert len(remarks) == 1
    assert remarks[0].startswith("warning: ")


@pytest.mark.parametrize("name", ["a.webm", "a.mka"])
def test_what_containers_leave_out_is_reported(tmp_path, name):
    """A kilobyte in the middle is overwritten: the reader goes on at the next cluster, 5 s after the first one."""
    container, codec, rate = CONTAINERS[name]
    data = bytearray(media(container, codec, rate=rate, seconds=8.0))
    place = len(data) * 3 // 10
    data[place : place + 1000] = bytes(1000)
    samples, (remark,) = read_bytes(bytes(data), tmp_path, name)
    begin, end = (float(seconds) for seconds in re.findall(r"(\d+\.\d+) s", remark))
    assert remark == f"warning: no audio at {begin:.2f} s to {end:.2f} s; what follows was moved up to there"
    assert end - begin > 0.5
    assert abs(len(samples) / rate + end - begin - 8) < 0.1


@pytest.mark.parametrize(("container", "codec"), [("tta", "tta"), ("matroska", "flac"), ("ac3", "ac3")])
def test_codecs_with_checksums(tmp_path, container, codec):
    data = bytearray(media(container, codec, rate=48000))
    data[len(data) // 2] ^= 1
    assert refusal(bytes(data), tmp_path, f"a.{container}").startswith("cannot be decoded from ")


def test_an_mp4_without_its_index(tmp_path):
    data = media("mp4", "aac")
    assert "cannot be read" in refusal(data[: len(data) // 2], tmp_path, "a.m4a")


def test_the_sound_of_a_video(tmp_path):
    samples, remarks = read_bytes(media("mp4", "aac", images=True), tmp_path, "talk.mp4")
    assert (len(samples), remarks) == (4 * RATE, [])
    assert refusal(media("mp4", None, images=True), tmp_path, "mute.mp4") == "has no sound track"


def test_titles_of_any_encoding(tmp_path):
    av = pytest.importorskip("av")
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as out:
        out.metadata["title"] = "caf__"
        sound = out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.int16), format="s16", layout="mono")
        frame.sample_rate = RATE
        out.mux([*sound.encode(frame), *sound.encode()])
    data = stream.getvalue().replace(b"caf__", b"caf\xe9\xff")
    assert len(read_bytes(data, tmp_path, "a.mka")[0]) == 1000


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"[playlist]\nFile1=http://127.0.0.1:9/a.wav\n",
        b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
    ],
)
@pytest.mark.parametrize("name", ["a.m4a", "a.wav", "a.webm"])
def test_playlists_open_nothing(tmp_path, data, name):
    assert "is not audio" in refusal(data * 20, tmp_path, name)


@pytest.mark.parametrize("name", CONTAINERS)
def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch, name):
    import sys

    container, codec, rate = CONTAINERS[name]
    data = media(container, codec, 0.5, rate=rate)
    monkeypatch.setitem(sys.modules, "av", None)
    message = refusal(data, tmp_path, name)
    assert "needs the package 'av': pip install 'audiovq[video]'" in message
