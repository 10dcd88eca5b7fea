"""The clip codec: shapes, exact sizes, independence of the batch, and gradients that reach all of it."""

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


def test_wrong_input_is_told():
    codec = make_codec()
    with pytest.raises(AudioVQError, match="codes clips"):
        codec.encode(torch.rand(3, 4, 8, 8))
    with pytest.raises(AudioVQError, match="needs codes of shape"):
        codec.decode(EncodedClip(torch.zeros(1, 1, 2, 2, 2, dtype=torch.int64), (4, 8, 16)))
    with pytest.raises(AudioVQError, match="powers of two"):
        make_codec(6)
    with pytest.raises(AudioVQError, match="at most as often"):
        make_codec(2, 4)
