"""Codes and samples depend on the audio alone, not on how it arrives."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from audiovq import SpeechCodec
from audiovq.errors import AudioVQError
from audiovq.hub import model_folder, save_weights
from audiovq.interfaces import Packet
from tests.conftest import TINY


def encode_in_pieces(codec, samples, seed, largest):
    generator = np.random.default_rng(seed)
    stream, packets, at = codec.encoder_stream(), [], 0
    while at < len(samples):
        n = int(generator.integers(1, largest))
        packets += stream.push(samples[at : at + n])
        at += n
    return stream, packets + stream.finish()


@pytest.mark.parametrize("largest", [200, 5000, 40000])
def test_pieces_of_any_size_give_the_same_bits(codec, speech, largest):
    whole = codec.encode([speech])
    stream, packets = encode_in_pieces(codec, speech.numpy(), largest, largest)
    assert np.array_equal(np.concatenate([p.codes for p in packets], axis=1), whole.codes[0].numpy())
    assert np.array_equal(stream.speaker, whole.speaker[0].numpy())
    assert all(p.n_frames == codec.packet_frames for p in packets[:-1])


def test_a_batch_of_unequal_lengths_equals_one_by_one(codec, speech):
    lengths = [52901, 16000, 16001, 170]
    batch = codec.encode([speech[:n] for n in lengths])
    decoded = codec.decode(batch)
    assert batch.n_samples.tolist() == lengths
    assert decoded.shape == (4, 1, 52901)
    for i, n in enumerate(lengths):
        alone = codec.encode(speech[None, None, :n])
        frames = -(-n // codec.hop_length)
        assert torch.equal(batch.codes[i, :, :frames], alone.codes[0])
        assert torch.equal(decoded[i, 0, :n], codec.decode(alone)[0, 0])
        assert decoded[i, 0, n:].abs().sum() == 0


def test_packets_equal_one_pass_over_the_whole(codec, speech):
    """The context at packet borders is enough: nothing is heard or lost at a seam."""
    padded = F.pad(speech, (0, -len(speech) % codec.hop_length))[None, None]
    with torch.inference_mode():
        expected = codec.quantizer.encode(codec.encoder(padded), 2)
        vector = codec.speaker_encoder.decode(codec.encode([speech]).speaker)
        samples = codec.decoder(codec.quantizer.decode(expected), vector)[..., : len(speech)]
    encoded = codec.encode([speech])
    assert torch.equal(encoded.codes, expected)
    torch.testing.assert_close(codec.decode(encoded), samples, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n_samples", [1, 160, 319, 320, 321, 16000, 16001, 20000])
def test_every_length_comes_back_exactly(codec, speech, n_samples):
    encoded = codec.encode([speech[:n_samples]])
    assert encoded.codes.shape[2] == -(-n_samples // 320)
    decoded = codec.decode(encoded)
    assert decoded.shape == (1, 1, n_samples)
    assert torch.isfinite(decoded).all()


def test_fewer_codebooks_are_the_coarser_part_of_more(codec, speech):
    few, many = codec.encode([speech], n_codebooks=1), codec.encode([speech], n_codebooks=4)
    assert torch.equal(few.codes, many.codes[:, :1])


def test_decoding_starts_with_the_first_packet(codec, speech):
    encoded = codec.encode([speech])
    stream = codec.decoder_stream(encoded.speaker[0].numpy())
    first = stream.push(Packet(encoded.codes[0, :, :50].numpy()))
    assert 0 < len(first) < 50 * codec.hop_length
    assert np.array_equal(first, codec.decode(encoded)[0, 0, : len(first)].numpy())


def test_a_lost_packet_changes_only_its_surroundings(codec, speech):
    encoded = codec.encode([speech])
    codes, whole = encoded.codes[0].numpy(), codec.decode(encoded)[0, 0].numpy()
    stream = codec.decoder_stream(encoded.speaker[0].numpy())
    pieces = [stream.push(Packet(codes[:, :50])), stream.push(None, 50), stream.push(Packet(codes[:, 100:]))]
    damaged = np.concatenate([*pieces, stream.finish(len(speech))])
    reach = codec.decoder.context_frames * codec.hop_length
    assert np.array_equal(damaged[: 16000 - reach], whole[: 16000 - reach])
    np.testing.assert_allclose(damaged[32000 + reach :], whole[32000 + reach :], atol=1e-6)
    assert not np.array_equal(damaged, whole)


def test_swapping_the_speaker_changes_the_sound_and_not_the_codes(codec, speech):
    encoded = codec.encode([speech])
    other = (encoded.speaker + 5) % 16
    assert not torch.equal(codec.decode(encoded), codec.decode(encoded, speaker=other))


def test_errors_name_what_is_wrong(codec, speech):
    with pytest.raises(AudioVQError, match="empty"):
        codec.encode([torch.zeros(0)])
    broken = speech.clone()
    broken[8000] = float("nan")
    with pytest.raises(AudioVQError, match=r"0\.500 s"):
        codec.encode([broken])
    with pytest.raises(AudioVQError, match="1 to 4 codebooks"):
        codec.encode([speech], n_codebooks=5)
    with pytest.raises(AudioVQError, match="no decoder 'wavenet'"):
        codec.decode(codec.encode([speech]), decoder="wavenet")
    with pytest.raises(AudioVQError, match="no model"):
        SpeechCodec.from_pretrained("no-such-model")


def test_a_run_is_found_by_its_name_in_the_cache(codec, tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path))
    for weights in ("best", "latest"):
        save_weights(codec, tmp_path / "runs" / "own" / weights)
    assert model_folder("runs/own") == tmp_path / "runs" / "own" / "best"
    assert model_folder("runs/own/latest") == tmp_path / "runs" / "own" / "latest"
    with pytest.raises(AudioVQError, match="runs/NAME"):
        model_folder("runs/other")


def test_a_saved_model_gives_the_same_codes(codec, speech, tmp_path):
    save_weights(codec, tmp_path, dtype=torch.float32)
    loaded = SpeechCodec.from_pretrained(tmp_path)
    assert loaded.config == codec.config
    assert loaded.model_hash != b"\0\0\0\0"
    assert torch.equal(loaded.encode([speech]).codes, codec.encode([speech]).codes)


def test_the_hash_tells_what_writes_codes_apart_and_not_what_reads_them(codec, tmp_path):
    def saved(name: str) -> bytes:
        save_weights(model, tmp_path / name)
        return SpeechCodec.from_pretrained(tmp_path / name).model_hash

    model = copy.deepcopy(codec)
    first = saved("first")
    with torch.no_grad():
        next(model.decoder.parameters()).add_(1)
        assert saved("another decoder") == first
        next(model.encoder.parameters()).add_(1)
        assert saved("another encoder") != first


def test_preferring_cheap_codes_leaves_the_meaning_of_codes_alone(codec, speech, tmp_path):
    """Files of a model that chooses codes by distance alone and of one that looks at their bits are read by both."""
    save_weights(codec, tmp_path / "free")
    config = copy.deepcopy(codec.config)
    config["quantizer"]["rate"] = 0.05
    thrifty = SpeechCodec(**config).eval()
    thrifty.load_state_dict(codec.state_dict(), strict=False)
    with torch.no_grad():
        thrifty.quantizer.count_bits(codec.encoder(torch.from_numpy(speech[None, None, :52800].numpy())))
    save_weights(thrifty, tmp_path / "thrifty")
    free, thrifty = (SpeechCodec.from_pretrained(tmp_path / name) for name in ("free", "thrifty"))
    assert free.model_hash == thrifty.model_hash
    encoded = [model.encode([speech]) for model in (free, thrifty)]
    assert not torch.equal(encoded[0].codes, encoded[1].codes)
    for one in encoded:
        assert torch.equal(free.decode(one), thrifty.decode(one))


def test_damaged_weights_are_one_clear_error(codec, tmp_path):
    save_weights(codec, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(AudioVQError, match="cannot be loaded"):
        SpeechCodec.from_pretrained(tmp_path)


def test_the_paper_model_is_a_configuration_of_the_same_classes(speech):
    torch.manual_seed(0)
    codec = SpeechCodec(
        encoder={
            "latent_dim": 8,
            "channels": [12] * 6,
            "strides": [2] * 6,
            "kernel_sizes": [4] * 6,
            "dilations": [[]] * 6,
        },
        quantizer={"n_codebooks": 1, "codebook_size": 512, "codebook": "gradient", "init_after": None},
        speaker_encoder={"n_speakers": 109, "dim": 6},
        decoder={"channels": [16], "upsample": [], "dilations": [[1, 3]]},
        default_n_codebooks=1,
    ).eval()
    assert codec.hop_length == 64
    decoded, quantized = codec(speech[None, None, :6400], torch.tensor([108]))
    assert quantized.codes.shape == (1, 1, 100)
    assert decoded.shape == (1, 1, 6400)


def test_gradient_reaches_every_weight(codec, speech):
    codec.train()
    waveform = speech[None, None, :16000]
    decoded, quantized = codec(waveform, waveform)
    (decoded.abs().mean() + quantized.loss).backward()
    assert [name for name, p in codec.named_parameters() if p.grad is None] == []
    assert TINY["name"] == codec.name
