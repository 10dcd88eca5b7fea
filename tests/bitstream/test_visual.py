"""Images and videos as files: exact round trips, odd input, damage."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from audiovq.bitstream.container import ContainerReader, DamagedError, media_of
from audiovq.bitstream.visual_file import (
    decode_visual,
    encode_image,
    encode_video,
    frames_of,
    inspect_visual,
)
from audiovq.bitstream.visual_layout import MEDIA_IMAGE, MEDIA_VIDEO, CodeLevel, VisualHeader
from audiovq.errors import AudioVQError
from audiovq.image import ImageCodec
from audiovq.media.images import read_image
from audiovq.video import ClipCodec

LEVELS = [
    {"stride": 8, "latent_dim": 6, "quantizer": {"codebook_size": 16}},
    {"stride": 4, "latent_dim": 6, "quantizer": {"codebook_size": 30, "n_codebooks": 2}},
]


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    model = ImageCodec(LEVELS, channels=16, residual=8, n_residual=1, tile=64).eval()
    model.model_hash = b"abcd"
    return model


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (13, 31), (70, 90)])
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_an_image_file_has_the_codes_of_the_codec(codec, tmp_path, size, suffix):
    image = pixels(*size)
    Image.fromarray(image).save(tmp_path / "a.png")
    encode_image(tmp_path / "a.png", tmp_path / "a.avq", codec)
    decode_visual(tmp_path / "a.avq", tmp_path / f"b.{suffix}", codec)
    expected = frames_of(codec, codec.encode_frames(image[None]), size, 1)[0]
    np.testing.assert_array_equal(read_image(tmp_path / f"b.{suffix}"), expected)
    assert media_of(tmp_path / "a.avq") == MEDIA_IMAGE


def test_a_clip_file_keeps_frames_and_rate(codec, tmp_path):
    frames = [Image.fromarray(pixels(16, 20, i)) for i in range(19)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=40)
    report = encode_video(tmp_path / "a.gif", tmp_path / "a.avq", codec)
    info = inspect_visual(tmp_path / "a.avq")
    assert (info.frames, info.frames_per_second, info.packets, report.n_frames) == (19, 25.0, 2, 19)
    decode_visual(tmp_path / "a.avq", tmp_path / "b.gif", codec)
    with Image.open(tmp_path / "b.gif") as found:
        assert (found.n_frames, found.size, found.info["duration"]) == (19, (20, 16), 40)


def test_frames_that_stay_longer_are_repeated(codec, tmp_path):
    frames = [Image.fromarray(pixels(16, 20, i)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[40, 120, 40])
    report = encode_video(tmp_path / "a.gif", tmp_path / "a.avq", codec)
    assert (report.n_frames, inspect_visual(tmp_path / "a.avq").frames_per_second) == (5, 25)


def test_films_go_through(codec, tmp_path):
    pytest.importorskip("av")
    frames = [Image.fromarray(pixels(17, 21, i)) for i in range(5)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    encode_video(tmp_path / "a.gif", tmp_path / "a.avq", codec)
    decode_visual(tmp_path / "a.avq", tmp_path / "b.mp4", codec)
    report = encode_video(tmp_path / "b.mp4", tmp_path / "b.avq", codec)
    assert (report.n_frames, report.size) == (5, (18, 22))
    assert inspect_visual(tmp_path / "b.avq").frames_per_second == 10


def test_clip_codecs_write_the_same_format(codec, tmp_path):
    torch.manual_seed(0)
    clip_codec = ClipCodec(4, 2, 6, {"codebook_size": 16}, 16, 8, 1).eval()
    frames = [Image.fromarray(pixels(16, 20, i)) for i in range(21)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=50)
    report = encode_video(tmp_path / "a.gif", tmp_path / "a.avq", clip_codec)
    assert report.n_frames == 21
    assert inspect_visual(tmp_path / "a.avq").levels == [[1, 4, 2, 4, 5]]
    assert decode_visual(tmp_path / "a.avq", tmp_path / "b.gif", clip_codec).n_frames == 21
    frames[0].save(tmp_path / "a.png")
    with pytest.raises(AudioVQError, match="is for video clips"):
        encode_image(tmp_path / "a.png", tmp_path / "b.avq", clip_codec)


def odd_images() -> dict[str, tuple[Image.Image, str]]:
    red = np.full((9, 9, 3), (255, 0, 0), np.uint8)
    clear = np.dstack([red, np.zeros((9, 9), np.uint8)])
    deep = np.full((9, 9), 0x8080, np.uint16)
    return {
        "alpha": (Image.fromarray(clear, "RGBA"), "png"),
        "16-bit": (Image.fromarray(deep), "png"),
        "cmyk": (Image.fromarray(red).convert("CMYK"), "jpg"),
        "grey": (Image.fromarray(deep.astype(np.uint8)), "png"),
        "palette": (Image.fromarray(red).quantize(4), "png"),
        "bilevel": (Image.fromarray(red).convert("1"), "png"),
    }


@pytest.mark.parametrize(
    ("kind", "colour"),
    [
        ("alpha", (255, 255, 255)),
        ("16-bit", (128, 128, 128)),
        ("cmyk", (255, 0, 0)),
        ("grey", (128, 128, 128)),
        ("palette", (255, 0, 0)),
    ],
)
def test_odd_images_have_the_right_colours(tmp_path, kind, colour):
    image, suffix = odd_images()[kind]
    image.save(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(read_image(tmp_path / f"a.{suffix}").reshape(-1, 3).mean(0), colour, atol=3)


def test_a_camera_rotation_is_done(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(10, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (20, 10, 3)


def test_other_files_are_refused(tmp_path, codec, monkeypatch):
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(AudioVQError, match=r"text\.png: is not an image"):
        encode_image(tmp_path / "text.png", tmp_path / "a.avq", codec)
    Image.fromarray(pixels(60, 60)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    with pytest.raises(AudioVQError, match="damaged or truncated"):
        encode_image(tmp_path / "cut.png", tmp_path / "a.avq", codec)
    monkeypatch.setattr("audiovq.media.images.MAX_PIXELS", 50)
    Image.fromarray(pixels(10, 10)).save(tmp_path / "huge.png")
    with pytest.raises(AudioVQError, match="shrink it first"):
        encode_image(tmp_path / "huge.png", tmp_path / "a.avq", codec)
    assert not (tmp_path / "a.avq").exists()


@pytest.fixture
def coded(codec, tmp_path):
    Image.fromarray(pixels(16, 16)).save(tmp_path / "a.png")
    encode_image(tmp_path / "a.png", tmp_path / "a.avq", codec)
    return (tmp_path / "a.avq").read_bytes()


def test_every_altered_or_missing_byte_is_noticed(codec, coded, tmp_path):
    for i in range(len(coded)):
        altered = bytes([*coded[:i], coded[i] ^ 0x10, *coded[i + 1 :]])
        for data in (altered, coded[:i]):
            with pytest.raises(AudioVQError):
                decode_visual(io.BytesIO(data), tmp_path / "b.png", codec)
    with pytest.raises(DamagedError, match="behind its end"):
        decode_visual(io.BytesIO(coded + b"x"), tmp_path / "b.png", codec)
    assert not (tmp_path / "b.png").exists()
    decode_visual(io.BytesIO(coded), tmp_path / "b.png", codec)


def test_another_model_is_told(codec, coded, tmp_path):
    other = ImageCodec(LEVELS, channels=16, residual=8, n_residual=1).eval()
    with pytest.raises(AudioVQError, match="was written by model 61626364"):
        decode_visual(io.BytesIO(coded), tmp_path / "b.png", other)


def test_a_wrong_ending_is_told_first(coded, tmp_path):
    def no_model(_: bytes):
        raise AssertionError("the model was loaded")

    with pytest.raises(AudioVQError, match=r"written as \.png"):
        decode_visual(io.BytesIO(coded), tmp_path / "b.wav", no_model)


def test_hostile_headers_are_refused(codec, coded):
    header = ContainerReader(io.BytesIO(coded)).header
    huge = CodeLevel(1, 16, 1, 70000, 16)
    with pytest.raises(AudioVQError, match=r"number of (pixels|codes) in a packet"):
        VisualHeader(b"abcd", MEDIA_VIDEO, (60000, 60000), 1024, (25, 1), (CodeLevel(64, 16, 1, 60000, 60000),))
    with pytest.raises(AudioVQError, match="rows of codes"):
        VisualHeader(b"abcd", MEDIA_IMAGE, (8, 16), 1, (0, 1), (huge,))
    for cut in range(len(header.body)):
        short = type(header)(header.media, header.model_hash, header.body[:cut])
        with pytest.raises(AudioVQError):
            VisualHeader.from_container(short)
