"""Batches of packets, for accelerators: the codes of the streams."""

import numpy as np
import pytest
import torch

from audiovq.codec.batches import encode_batch
from audiovq.errors import AudioVQError
from tests.codec.tiny import RATE, make_codec, speech_like
from tests.fake_device import FakeDevice

SECONDS = (0.01, 1.0, 2.3, 2.3, 5.1, 0.6, 0.601)
FIELDS = ("codes", "pitch", "level", "speaker", "n_samples")


@pytest.fixture(scope="module")
def items():
    return [speech_like(seconds, seed) for seed, seconds in enumerate(SECONDS)]


@pytest.mark.parametrize("batch_frames", [1, 100, 30_000])
@pytest.mark.parametrize("size", [None, 4])
def test_batches_have_the_codes_of_streams(items, batch_frames, size):
    codec = make_codec()
    for item, (packets, speaker) in zip(items, encode_batch(codec, items, 4, size, batch_frames), strict=True):
        stream = codec.encoder_stream(4, size)
        expected = stream.push(item) + stream.finish()
        assert np.array_equal(speaker, stream.speaker)
        assert [packet.level for packet in packets] == [packet.level for packet in expected]
        codes, wanted = (np.concatenate([p.codes for p in found], axis=1) for found in (packets, expected))
        assert codes.shape == wanted.shape
        assert (codes == wanted).mean() > 0.999
        pitch, wanted = (np.concatenate([p.pitch for p in found]) for found in (packets, expected))
        assert (pitch == wanted).mean() > 0.999


def test_bad_items_are_refused_with_their_place():
    codec, samples = make_codec(), np.zeros(RATE, np.float32)
    samples[8000] = np.nan
    with pytest.raises(AudioVQError, match=r"0\.500 s"):
        encode_batch(codec, [speech_like(0.5), samples])
    with pytest.raises(AudioVQError, match="empty"):
        encode_batch(codec, [samples[:0]])
    with pytest.raises(AudioVQError, match="1 to 4 codebooks"):
        encode_batch(codec, [samples[:100]], 5)


def test_a_codec_on_another_device_codes_decodes_and_converts(items):
    """Everything that a codec on a GPU has to move is moved: see `FakeDevice`."""
    here, there = make_codec(), make_codec()
    here.encode(items[1])  # what is folded on the CPU is forgotten
    there.encode(items[1])
    expected = here.encode(items[:3])
    with FakeDevice():
        there.to("cuda")
        assert there.device.type == "cuda"
        encoded = there.encode(items[:3])
        for name in FIELDS:
            assert torch.equal(getattr(encoded, name), getattr(expected, name)), name
        decoded = there.decode(encoded)
        stream = there.encoder_stream()
        packets = stream.push(items[2]) + stream.finish()
        converted = there.convert(items[1], to=items[2])
    assert torch.allclose(decoded, here.decode(expected), atol=1e-5)
    assert torch.allclose(converted, here.convert(items[1], to=items[2]), atol=1e-5)
    assert np.array_equal(
        np.concatenate([p.codes for p in packets], axis=1), expected.codes[2, :, : len(items[2]) // 320].numpy()
    )


def test_the_fake_device_refuses_what_a_gpu_refuses():
    with FakeDevice():
        there = torch.ones(3).to("cuda")
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            (2 * there).numpy()
        assert (there.cpu() + torch.ones(3)).numpy().tolist() == [2, 2, 2]


@pytest.mark.external
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_has_the_codes_of_the_cpu(items):
    expected = make_codec().encode(items)
    encoded = make_codec().to("cuda").encode(items)
    for name in ("codes", "pitch", "speaker"):
        assert (getattr(encoded, name) == getattr(expected, name)).float().mean() > 0.99, name
