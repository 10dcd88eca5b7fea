"""The image codec: sizes, determinism, tiles, files."""

from __future__ import annotations

import pytest
import torch

from audiovq.errors import AudioVQError
from audiovq.image import EncodedImage, ImageCodec
from tests.image.conftest import smooth_images


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (32, 32), (33, 70)])
def test_any_size_comes_back(codec, size):
    images = smooth_images(2, *size)
    encoded = codec.encode(images)
    assert encoded.size == size
    for codes, (k, n, stride), grid in zip(encoded.codes, codec.levels, codec.grid(size), strict=True):
        assert codes.shape == (2, k, *grid)
        assert grid[0] * stride >= size[0]
        assert 0 <= int(codes.min()) <= int(codes.max()) < n
    decoded = codec.decode(encoded)
    assert decoded.shape == images.shape
    assert 0 <= float(decoded.min()) <= float(decoded.max()) <= 1


def test_codes_do_not_depend_on_the_batch(codec):
    images = smooth_images(3, 40, 36)
    together = codec.encode(images)
    for i in range(3):
        alone = codec.encode(images[i : i + 1])
        assert all(torch.equal(a[0], b[i]) for a, b in zip(alone.codes, together.codes, strict=True))


def test_other_precisions_are_refused_and_autocast_changes_nothing(codec):
    images = smooth_images(2, 40, 36)
    encoded = codec.encode(images)
    with torch.autocast("cpu", torch.bfloat16):
        again = codec.encode(images)
        assert torch.equal(codec.decode(again), codec.decode(encoded))
    assert all(torch.equal(a, b) for a, b in zip(again.codes, encoded.codes, strict=True))
    for call in (lambda: codec.half().encode(images), lambda: codec.bfloat16().decode(encoded)):
        with pytest.raises(AudioVQError, match=r"ImageCodec codes in float32 alone"):
            call()


def test_tiled_images_equal_whole_ones(codec):
    images = smooth_images(1, 400, 40)
    tiled = codec.encode(images)
    decoded = codec.decode(tiled)
    codec.tile = 4096
    whole = codec.encode(images)
    for a, b in zip(tiled.codes, whole.codes, strict=True):
        assert (a == b).float().mean() > 0.999  # convolutions of another shape may round another way at a tie
    torch.testing.assert_close(codec.decode(tiled), decoded, atol=1e-4, rtol=0)


def test_what_is_saved_is_what_is_loaded(codec, tmp_path):
    codec.save(tmp_path, dtype=torch.float32)
    loaded = ImageCodec.from_pretrained(tmp_path)
    images = smooth_images(1, 32, 48)
    encoded = codec.encode(images)
    assert all(torch.equal(a, b) for a, b in zip(encoded.codes, loaded.encode(images).codes, strict=True))
    assert torch.equal(codec.decode(encoded), loaded.decode(encoded))
    assert len(loaded.model_hash) == 4
    with torch.no_grad():
        loaded.decoder.net[0].weight.mul_(2)  # another decoder reads the same codes
    loaded.save(tmp_path / "other", dtype=torch.float32)
    assert ImageCodec.from_pretrained(tmp_path / "other").model_hash == loaded.model_hash
    with torch.no_grad():
        loaded.stages[0].project.weight.mul_(2)
    loaded.save(tmp_path / "third", dtype=torch.float32)
    assert ImageCodec.from_pretrained(tmp_path / "third").model_hash != loaded.model_hash


def test_errors_say_what_to_do(codec, tmp_path):
    encoded = codec.encode(smooth_images(1, 16, 16))
    with pytest.raises(AudioVQError, match="needs codes of shapes"):
        codec.decode(EncodedImage(encoded.codes, (400, 16)))
    with pytest.raises(AudioVQError, match="no image model"):
        ImageCodec.from_pretrained(tmp_path / "nothing")
    with pytest.raises(AudioVQError, match="coarse to fine"):
        ImageCodec([{"stride": 4}, {"stride": 8}])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 1, 8, 8), r"encodes images \(B, 3, H, W\), got shape \(1, 1, 8, 8\)"),
        (torch.zeros(3, 8, 8), r"got shape \(3, 8, 8\)"),
        (torch.zeros(1, 3, 2, 8, 8), r"got shape \(1, 3, 2, 8, 8\)"),
        (torch.zeros(1, 3, 0, 8), r"got shape \(1, 3, 0, 8\)"),
        (torch.full((1, 3, 8, 8), torch.nan), "not finite"),
        (torch.full((1, 3, 8, 8), torch.inf), "not finite"),
        (torch.full((1, 3, 8, 8), 255.0), "values from 255 to 255"),
        (torch.full((1, 3, 8, 8), -1.0), "values from -1 to -1"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "got torch.int64"),
    ],
)
def test_wrong_images_are_refused_in_one_line(codec, images, message):
    with pytest.raises(AudioVQError, match=message) as raised:
        codec.encode(images)
    assert "\n" not in str(raised.value)


def test_uint8_and_half_precision_are_converted(codec):
    pixels = (smooth_images(2, 20, 24) * 255).round().byte()
    for a, b in zip(codec.encode(pixels).codes, codec.encode(pixels.float() / 255).codes, strict=True):
        assert torch.equal(a, b)
    assert codec.encode(pixels.half() / 255).codes[0].shape == codec.encode(pixels).codes[0].shape


def test_results_can_be_trained_on(codec):
    encoded = codec.encode(smooth_images(2, 16, 24))
    for codes, (_, n, _) in zip(encoded.codes, codec.levels, strict=True):
        table = torch.nn.Embedding(n, 4)
        table(codes).square().sum().backward()
        assert table.weight.grad.abs().sum() > 0
    decoded = codec.decode(encoded)
    conv = torch.nn.Conv2d(3, 2, 3)
    conv(decoded).square().sum().backward()
    assert conv.weight.grad.abs().sum() > 0
    assert not decoded.requires_grad


def test_gradients_reach_every_weight(codec):
    codec.train()
    parameters, quantized = codec(smooth_images(4, 32, 32))
    (codec.nll(parameters, smooth_images(4, 32, 32)).mean() + sum(q.loss for q in quantized)).backward()
    assert [name for name, p in codec.named_parameters() if p.grad is None] == []
