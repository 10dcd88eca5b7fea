"""Weights on disk: what comes back is what was there, to the precision that was asked for."""

import json

import pytest
import torch
from torch import nn

from audiovq import SpeechCodec
from audiovq.errors import AudioVQError
from audiovq.hub import load_weights, model_facts, model_folder, read_config, save_weights


class Small(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = {"width": width}
        self.conv = nn.Conv2d(3, width, 3)
        self.linear = nn.Linear(width, 5)
        self.register_buffer("table", torch.randn(7, width))
        self.register_buffer("count", torch.tensor([3]))


@pytest.fixture
def model() -> Small:
    torch.manual_seed(0)
    small = Small(4)
    with torch.no_grad():
        small.conv.weight[2] *= 100  # a large row does not coarsen the others
    return small


def test_8_bits_are_as_near_as_8_bits_can_be(model, tmp_path):
    save_weights(model, tmp_path, torch.int8)
    again = load_weights(Small, tmp_path)
    for name, weight in model.named_parameters():
        found = again.get_parameter(name)
        assert found.dtype == torch.float32
        if weight.dim() == 1:
            torch.testing.assert_close(found, weight, rtol=1e-3, atol=1e-6)
            continue
        step = weight.flatten(1).abs().amax(1) / 127
        error = (found - weight).flatten(1).abs().amax(1)
        assert (error <= 0.57 * step).all()  # half a step, and what scales lose in float16
        assert (error > 0).any()


def test_buffers_are_not_rounded_to_8_bits(model, tmp_path):
    save_weights(model, tmp_path, torch.int8)
    again = load_weights(Small, tmp_path)
    assert torch.equal(again.table, model.table.half().float())
    assert torch.equal(again.count, model.count)


def test_saving_what_was_loaded_changes_nothing(model, tmp_path):
    save_weights(model, tmp_path / "a", torch.int8)
    once = load_weights(Small, tmp_path / "a")
    save_weights(once, tmp_path / "b", torch.int8)
    twice = load_weights(Small, tmp_path / "b")
    for name, tensor in once.state_dict().items():
        torch.testing.assert_close(twice.state_dict()[name], tensor, rtol=1e-3, atol=1e-7)


def test_a_run_is_found_by_its_name_in_the_cache(codec, tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path))
    for weights in ("best", "latest"):
        save_weights(codec, tmp_path / "runs" / "own" / weights)
    assert model_folder("runs/own") == tmp_path / "runs" / "own" / "best"
    assert model_folder("runs/own/latest") == tmp_path / "runs" / "own" / "latest"
    with pytest.raises(AudioVQError, match="runs/NAME"):
        model_folder("runs/other")
    with pytest.raises(AudioVQError, match="no model"):
        SpeechCodec.from_pretrained("no-such-model")


def test_a_saved_model_gives_the_same_codes(codec, speech, tmp_path):
    save_weights(codec, tmp_path, dtype=torch.float32)
    loaded = SpeechCodec.from_pretrained(tmp_path)
    assert loaded.config == codec.config
    assert loaded.model_hash != b"\0\0\0\0"
    assert torch.equal(loaded.encode([speech]).codes, codec.encode([speech]).codes)


def test_the_hash_is_of_what_gives_codes_their_meaning(codec, tmp_path):
    def saved(name: str) -> bytes:
        save_weights(codec, tmp_path / name)
        return SpeechCodec.from_pretrained(tmp_path / name).model_hash

    first = saved("first")
    with torch.no_grad():
        for part in ("decoder", "encoder", "pitch", "speaker_encoder"):
            next(getattr(codec, part).parameters()).add_(1)
            assert saved(f"another {part}") == first
        codec.quantizer.content.codebook.vectors.add_(1)
        assert saved("another quantizer") != first


def test_damaged_weights_are_one_clear_error(codec, tmp_path):
    save_weights(codec, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(AudioVQError, match="cannot be loaded"):
        SpeechCodec.from_pretrained(tmp_path)


def test_models_of_version_0_1_are_refused_in_one_line(codec, tmp_path):
    save_weights(codec, tmp_path)
    config = {"encoder": {"strides": [2]}, "quantizer": {"n_codebooks": 1}, "speaker_encoder": {}, "decoder": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for load in (SpeechCodec.from_pretrained, model_facts):
        with pytest.raises(AudioVQError, match=r"was made by audiovq 0\.1.* audiovq 0\.1") as error:
            load(tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_damaged_configurations(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(AudioVQError, match=r"config\.json is damaged"):
        read_config(tmp_path)


def test_altered_weights_are_refused(model, tmp_path):
    save_weights(model, tmp_path, torch.int8)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    for place in range(data.index(b"}}") + 2, len(data), 31):
        changed = bytearray(data)
        changed[place] ^= 16
        path.write_bytes(changed)
        with pytest.raises(AudioVQError, match="cannot be loaded"):
            load_weights(Small, tmp_path)
