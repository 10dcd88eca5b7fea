"""The codec for video clips: shapes, exact sizes, independence of the batch, and gradients that reach all of it."""

from __future__ import annotations

import pytest
import torch

from audiovq.errors import AudioVQError
from audiovq.video import ClipCodec, EncodedClip


def make_codec(stride: int = 4, time_stride: int = 2, **quantizer) -> ClipCodec:
    torch.manual_seed(0)
    return ClipCodec(stride, time_stride, 8, {"codebook_size": 16, **quantizer}, 16, 8, 1).eval()


@pytest.mark.parametrize(("stride", "time_stride"), [(4, 2), (4, 4), (8, 2)])
def test_codes_and_clips_have_their_sizes(stride, time_stride):
    codec = make_codec(stride, time_stride, n_codebooks=2)
    for frames, height, width in ((8, 16, 24), (5, 9, 17), (1, 1, 1)):
        encoded = codec.encode(torch.rand(2, 3, frames, height, width))
        assert encoded.codes.shape == (2, 2, -(-frames // time_stride), -(-height // stride), -(-width // stride))
        assert codec.decode(encoded).shape == (2, 3, frames, height, width)


def test_codes_do_not_depend_on_the_batch():
    codec = make_codec()
    clips = torch.rand(3, 3, 6, 12, 12)
    whole = codec.encode(clips).codes
    for i in range(3):
        assert torch.equal(codec.encode(clips[i : i + 1]).codes, whole[i : i + 1])


def test_other_precisions_are_refused_and_autocast_changes_nothing():
    codec, clips = make_codec(), torch.rand(1, 3, 6, 12, 12)
    encoded = codec.encode(clips)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.encode(clips).codes, encoded.codes)
        again = codec.decode(encoded)
    assert torch.equal(again, codec.decode(encoded))
    for call in (lambda: codec.half().encode(clips), lambda: codec.bfloat16().decode(encoded)):
        with pytest.raises(AudioVQError, match=r"ClipCodec codes in float32 alone"):
            call()


def test_training_reaches_every_weight():
    codec = make_codec().train()
    clips = torch.rand(2, 3, 4, 8, 8)
    pixels, quantized = codec(clips)
    assert pixels.shape == clips.shape
    ((pixels - clips).square().mean() + quantized.loss).backward()
    missing = [n for n, p in codec.named_parameters() if p.grad is None and not n.startswith("likelihood")]
    assert missing == []


def test_a_codec_comes_back_from_its_folder(tmp_path):
    make_codec().save(tmp_path)
    first, second = ClipCodec.from_pretrained(tmp_path), ClipCodec.from_pretrained(tmp_path)
    assert first.model_hash == second.model_hash != b"\0\0\0\0"
    clips = torch.rand(1, 3, 4, 8, 8)
    assert torch.equal(first.decode(first.encode(clips)), second.decode(second.encode(clips)))


def test_uint8_is_scaled():
    codec = make_codec()
    clips = (torch.rand(1, 3, 4, 8, 8) * 255).byte()
    assert torch.equal(codec.encode(clips).codes, codec.encode(clips.float() / 255).codes)


def test_results_can_be_trained_on():
    codec = make_codec()
    encoded = codec.encode(torch.rand(2, 3, 4, 8, 8))
    table, conv = torch.nn.Embedding(16, 4), torch.nn.Conv3d(3, 2, 3)
    table(encoded.codes).square().sum().backward()
    conv(codec.decode(encoded)).square().sum().backward()
    assert table.weight.grad.abs().sum() > 0
    assert conv.weight.grad.abs().sum() > 0


def test_wrong_input_is_refused():
    codec = make_codec()
    for clips, message in (
        (torch.rand(3, 4, 8, 8), r"encodes video clips \(B, 3, T, H, W\), got shape \(3, 4, 8, 8\)"),
        (torch.rand(1, 4, 4, 8, 8), "got shape"),
        (torch.rand(1, 3, 0, 8, 8), "got shape"),
        (torch.full((1, 3, 4, 8, 8), torch.nan), "not finite"),
        (torch.full((1, 3, 4, 8, 8), 200.0), "values from 200 to 200"),
        (torch.zeros(1, 3, 4, 8, 8, dtype=torch.int32), "got torch.int32"),
    ):
        with pytest.raises(AudioVQError, match=message) as raised:
            codec.encode(clips)
        assert "\n" not in str(raised.value)
    with pytest.raises(AudioVQError, match="needs codes of shape"):
        codec.decode(EncodedClip(torch.zeros(1, 1, 2, 2, 2, dtype=torch.int64), (4, 8, 16)))
    with pytest.raises(AudioVQError, match="powers of two"):
        make_codec(6)
    with pytest.raises(AudioVQError, match="at most the stride"):
        make_codec(2, 4)
