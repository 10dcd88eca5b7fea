"""Ogg and MP3: what their decoders pass over in silence is reported, or refused with its time."""

from __future__ import annotations

import io

import numpy as np
import pytest

from audiovq.media.pages import page_checksum, read_frames, read_pages
from tests.media.audio import read_bytes, refusal
from tests.media.test_audio_files import RATE, VOICE, written

OGG = ["VORBIS", "OPUS"]


def ogg_pages(data):
    """The pages of an Ogg file."""
    starts = [i for i in range(len(data)) if data.startswith(b"OggS\0", i)]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


@pytest.mark.parametrize("coding", OGG)
def test_checksums_of_pages(coding):
    pages = ogg_pages(written("OGG", coding))
    assert len(pages) > 4
    assert all(page_checksum(page) == int.from_bytes(page[22:26], "little") for page in pages)


@pytest.mark.parametrize("coding", OGG)
@pytest.mark.parametrize("missing", [1, 40, 200])
def test_a_last_page_that_is_not_whole(tmp_path, coding, missing):
    data = written("OGG", coding)
    samples, remarks = read_bytes(data[:-missing], tmp_path)
    assert len(samples) < len(VOICE)
    assert remarks == [f"warning: its end is missing; {len(samples) / RATE:.2f} s were read"]


@pytest.mark.parametrize("coding", OGG)
@pytest.mark.parametrize("damage", ["a bit", "a page is missing", "bytes are missing", "bytes are inserted"])
def test_damage_in_between_is_refused_with_its_time(tmp_path, coding, damage):
    pages = ogg_pages(written("OGG", coding))
    n = len(pages) // 2 + 1
    page = bytearray(pages[n])
    match damage:
        case "a bit":
            page[len(page) // 2] ^= 4
        case "a page is missing":
            page.clear()
        case "bytes are missing":
            del page[50:60]
        case "bytes are inserted":
            page[50:50] = b"OggS\0 is not a page"
    before = int.from_bytes(pages[n - 1][6:14], "little") / (48_000 if coding == "OPUS" else RATE)
    message = refusal(b"".join([*pages[:n], page, *pages[n + 1 :]]), tmp_path)
    assert message == f"cannot be decoded from {before:.2f} s on; it is damaged"


@pytest.mark.parametrize("coding", OGG)
def test_a_recording_behind_another_is_not_left_out_in_silence(tmp_path, coding):
    data = written("OGG", coding)
    samples, (remark,) = read_bytes(data + written("OGG", coding, VOICE[:RATE]), tmp_path)
    assert len(samples) == len(VOICE)
    assert remark == "warning: it ends at 4.00 s, but another recording follows, which was left out"


@pytest.mark.parametrize("junk", [b"TAG" + bytes(125), bytes(5000)])
def test_what_follows_the_last_page_is_not_missed(tmp_path, junk):
    samples, remarks = read_bytes(written("OGG", "VORBIS") + junk, tmp_path)
    assert (len(samples), remarks) == (len(VOICE), [])


def mp3(samples=VOICE, rate=RATE):
    return written("MP3", "MPEG_LAYER_III", samples, rate)


def tagless(samples=VOICE, rate=RATE):
    """An MP3 without the frame that states its length."""
    data = mp3(samples, rate)
    return data[data.index(data[:2], 100) :]


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_frames_of_an_mp3(rate, channels):
    frames = read_frames(io.BytesIO(tagless(np.repeat(VOICE, channels, axis=1), rate)))
    assert frames.frame_samples == (1152 if rate == 44100 else 576)
    assert len(VOICE) < frames.n_samples < len(VOICE) + 5 * frames.frame_samples
    assert frames.is_complete
    assert frames.damaged_at == ()


def test_mp3s_one_after_the_other(tmp_path):
    data = mp3()
    samples, (remark,) = read_bytes(data + data, tmp_path, "a.mp3")
    assert len(samples) == len(VOICE)
    assert remark.startswith("warning: by its header it ends at 4.00 s; 4.")
    assert remark.endswith("that follow were left out")
    samples, remarks = read_bytes(tagless() + tagless(), tmp_path, "a.mp3")
    assert len(samples) >= 2 * len(VOICE)
    assert remarks == []


@pytest.mark.parametrize("make", [mp3, tagless])
@pytest.mark.parametrize("missing", [1, 30])
def test_a_last_frame_that_is_not_whole(tmp_path, make, missing):
    samples, (remark,) = read_bytes(make()[:-missing], tmp_path, "a.mp3")
    assert remark.startswith("warning: its end is ")
    assert remark.endswith(f"missing; {len(samples) / RATE:.2f} s were read")


@pytest.mark.parametrize("make", [mp3, tagless])
@pytest.mark.parametrize("size", [10, 700, 5000])
def test_an_mp3_that_is_damaged_in_between(tmp_path, make, size):
    data = bytearray(make())
    place = data.index(data[:2], len(data) // 2)
    data[place : place + size] = b"\xaa" * size
    (tmp_path / "a.mp3").write_bytes(data)
    try:
        _, remarks = read_bytes(bytes(data), tmp_path, "a.mp3")
    except Exception:
        assert refusal(bytes(data), tmp_path, "a.mp3").startswith("cannot be decoded from ")
        assert size > 1000
        return
    (remark,) = remarks
    assert remark.startswith(("warning: damaged at 1.9", "warning: damaged at 2.0"))


@pytest.mark.parametrize(
    "tag", [b"TAG" + bytes(125), b"APETAGEX\xd0\x07\0\0\x20\0\0\0\0\0\0\0\0\0\0\xa0" + bytes(8) + b"\xff\xfb" * 16]
)
def test_tags_are_not_damage(tmp_path, tag):
    for make in (mp3, tagless):
        assert read_bytes(make() + tag, tmp_path, "a.mp3")[1] == []
    identifier = b"ID3\x03\0\0\0\0\x02\0" + b"\xff\xfb" * 128
    assert read_frames(io.BytesIO(tagless() + identifier + tagless())).damaged_at == ()


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff" * 300_000, b"\xff\xfb\x90\x00" * 50_000, bytes(100_000)])
def test_what_has_no_frames(data):
    assert read_frames(io.BytesIO(data)) is None
    assert not read_pages(io.BytesIO(data)).is_complete
