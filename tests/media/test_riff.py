"""WAV headers that say other things than what stands in the file: nothing is lost, and nothing in silence."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from audiovq.media import containers as riff
from tests.media.audio import read_bytes, refusal

RATE = 16000
SAMPLES = np.random.default_rng(5).integers(-9000, 9000, 3 * RATE).astype("<i2")
PCM = SAMPLES.tobytes()
EXPECTED = SAMPLES[:, None] / np.float32(32768)


def chunk(name, data, size=None, pad=True):
    """A chunk, with its pad byte."""
    return name + struct.pack("<I", len(data) if size is None else size) + data + b"\0" * (pad and len(data) % 2)


def fmt(tag=1, channels=1, bits=16, rate=RATE):
    width = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * width % 2**32, width, bits))


def wav(data=PCM, size=None, riff=None, before=b"", after=b"", form=None):
    """A WAV whose sizes may be anything."""
    size = len(data) if size is None else size
    body = b"WAVE" + (fmt() if form is None else form) + before + b"data" + struct.pack("<I", size) + data + after
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def check_whole(data, folder, *words):
    """All samples come out, with one remark that has these words, or none."""
    samples, remarks = read_bytes(data, folder)
    assert np.array_equal(samples, EXPECTED)
    assert len(remarks) == bool(words)
    for word in words:
        assert word in remarks[0]


FILLER = chunk(b"JUNK", bytes(28)), chunk(b"FLLR", bytes(4000))

UNFINISHED = {
    "as phones write it": wav(size=0, riff=4088, before=b"".join(FILLER)),
    "plain": wav(size=0, riff=36),
    "with the right size of the whole": wav(size=0),
    "with a LIST before": wav(size=0, riff=36, before=chunk(b"LIST", b"INFOISFT\x04\0\0\0abc\0")),
    "with a fact": wav(size=0, riff=48, before=chunk(b"fact", bytes(4))),
}


@pytest.mark.parametrize("name", UNFINISHED)
def test_a_recorder_that_was_killed(tmp_path, name):
    check_whole(UNFINISHED[name], tmp_path, "warning", "0.00 s", "all 3.00 s")


@pytest.mark.parametrize(("channels", "bits", "tag"), [(2, 24, 1), (1, 8, 1), (3, 32, 1), (2, 32, 3), (1, 64, 3)])
def test_unfinished_files_of_other_formats(tmp_path, channels, bits, tag):
    data = np.random.default_rng(0).integers(0, 100, 600 * channels * bits // 8).astype(np.uint8).tobytes()
    data = np.linspace(-1, 1, 600 * channels).astype(f"<f{bits // 8}").tobytes() if tag == 3 else data
    form = fmt(tag, channels, bits)
    whole, remarks = read_bytes(wav(data, form=form), tmp_path)
    assert (len(whole), remarks) == (600, [])
    samples, remarks = read_bytes(wav(data, size=0, riff=36, form=form), tmp_path)
    assert np.array_equal(samples, whole)
    assert len(remarks) == 1


@pytest.mark.parametrize("size", [len(PCM) // 2, 3, 70_001, len(PCM) - 20_000, 2])
def test_a_header_that_counts_less_than_is_there(tmp_path, size):
    check_whole(wav(size=size), tmp_path, "warning", f"ends at {size / 32000:.2f} s", "all 3.00 s")


def test_sizes_that_have_wrapped(tmp_path, monkeypatch):
    monkeypatch.setattr(riff, "_WRAP", 40_000)
    size = len(PCM) - 2 * 40_000
    check_whole(wav(size=size), tmp_path, "all 3.00 s")
    check_whole(wav(size=size, after=chunk(b"LIST", b"INFOISFT\x04\0\0\0abc\0")), tmp_path, "all 3.00 s")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF - 36])
@pytest.mark.parametrize("riff", [0xFFFFFFFF, 0x7FFFF024, 0, 36])
def test_what_writers_to_pipes_leave(tmp_path, size, riff):
    check_whole(wav(size=size, riff=riff), tmp_path)


@pytest.mark.parametrize("more", [2, 16, 28, 36, 44])
def test_a_size_with_the_header_in_it(tmp_path, more):
    check_whole(wav(size=len(PCM) + more), tmp_path)


def test_a_file_that_was_cut_off(tmp_path):
    for n in (1, 30_001, len(PCM) // 2):
        data = wav()[: 44 + n]
        if n < 2:
            assert "no audio samples; warning: it ends at 0.00 s" in refusal(data, tmp_path)
            continue
        samples, remarks = read_bytes(data, tmp_path)
        assert np.array_equal(samples, EXPECTED[: n // 2])
        assert remarks == [f"warning: it ends at {n / 32000:.2f} s, but its header states 3.00 s; was it cut off?"]


TAILS = {
    "a chunk": chunk(b"LIST", b"INFOISFT\x04\0\0\0abc\0"),
    "several": chunk(b"LIST", b"abcde") + chunk(b"id3 ", bytes(301)) + chunk(b"cue ", bytes(4)),
    "one without its pad byte": chunk(b"LIST", b"abcde", pad=False) + chunk(b"bext", bytes(7)),
    "one that nobody knows": chunk(b"my_1", b"something"),
    "one that is cut off": chunk(b"LIST", b"abcde", size=500),
    "zeros to the end of a sector": bytes(-len(wav()) % 512),
    "a tag of a music player": b"TAG" + bytes(125),
    "a new tag with a cover": b"ID3\x03\0" + bytes(300_000),
    "chunks and zeros": chunk(b"LIST", b"abcde") + bytes(4096),
}


@pytest.mark.parametrize("name", TAILS)
def test_what_is_not_audio_behind_the_audio(tmp_path, name):
    check_whole(wav(after=TAILS[name]), tmp_path)
    # Audio of an odd number of bytes, with its pad byte and without.
    for pad in (b"\0", b""):
        data = np.arange(90, 161, dtype=np.uint8).tobytes()
        samples, remarks = read_bytes(wav(data, form=fmt(bits=8), after=pad + TAILS[name]), tmp_path)
        assert (len(samples), remarks) == (71, [])


def test_a_second_recording_behind_the_first(tmp_path):
    for second in (wav(), chunk(b"data", PCM)):
        check_whole(wav(after=second), tmp_path, "warning: more audio", "left out")


PADS = {
    "with its pad byte": chunk(b"LIST", b"INFOISFT\x05\0\0\0abcd\0"),
    "without": chunk(b"LIST", b"INFOISFT\x05\0\0\0abcd\0", pad=False),
    "two without": chunk(b"JUNK", b"abc", pad=False) + chunk(b"bext", b"abcde", pad=False),
    "one without, one with": chunk(b"JUNK", b"abc", pad=False) + chunk(b"bext", b"abcde"),
    "one with, one without": chunk(b"JUNK", b"abc") + chunk(b"my_1", b"abcde", pad=False),
    "with letters in it": chunk(b"LIST", b"datadatadatadata!", pad=False),
    "padded by something else": chunk(b"LIST", b"abcde", pad=False) + b"\x7f",
}


@pytest.mark.parametrize("name", PADS)
def test_odd_chunks_before_the_audio(tmp_path, name):
    check_whole(wav(before=PADS[name]), tmp_path)


def test_samples_that_look_like_text(tmp_path):
    """Where the size is missing, loud samples may be letters: no name of a chunk that is known."""
    text = ("Nobody expects it. " * 2000).encode()
    samples, remarks = read_bytes(wav(text, size=0, riff=36), tmp_path)
    assert len(samples) == len(text) // 2
    assert len(remarks) == 1


@pytest.mark.parametrize("after", [b"", *FILLER, bytes(100), chunk(b"LIST", b"abcde")])
@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF])
def test_a_file_without_samples(tmp_path, riff, after):
    if riff != 36 and after:
        return  # by their sizes, writers to a pipe say that the rest is audio
    assert refusal(wav(b"", riff=riff, after=after), tmp_path).startswith("contains no audio samples")


@pytest.mark.parametrize("n", range(12, 44, 3))
def test_a_header_that_is_cut_off(tmp_path, n):
    assert "is not audio" in refusal(wav()[:n], tmp_path)


@pytest.mark.parametrize(("size", "word"), [(24_000, "24,000 bytes follow"), (48_000, None), (70_000, "cut off")])
def test_codings_that_another_reader_decodes(tmp_path, size, word):
    data = bytes(range(1, 201)) * 240
    samples, remarks = read_bytes(wav(data, size=size, form=fmt(tag=7, bits=8)), tmp_path)
    assert len(samples) == min(size, 48_000)
    assert len(remarks) == (word is not None)
    assert word is None or word in remarks[0]


def test_no_samples_in_a_file_that_another_reader_decodes(tmp_path):
    message = refusal(wav(bytes(range(1, 201)) * 240, size=0, form=fmt(tag=7, bits=8)), tmp_path)
    assert message.startswith("contains no audio samples; warning: 48,000 bytes follow")


@pytest.mark.parametrize("rate", [0, 1, 999, 768_001, 0xFFFFFFFF])
def test_rates_that_are_none(tmp_path, rate):
    assert refusal(wav(form=fmt(rate=rate)), tmp_path)


def test_very_many_channels(tmp_path):
    form = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 30_000, RATE, 0, 60_000, 16))
    samples, _ = read_bytes(wav(PCM[:60_000] * 2, form=form), tmp_path, mono=True)
    assert samples.shape == (2, 1)
