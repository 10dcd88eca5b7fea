"""Runs that begin from other models' weights: as far as they fit, and each part from its own model."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("hydra")

from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.speech.codec import SpeechCodec
from audiovq.training.run import compose
from audiovq.training.warm_start import warm_start


def tiny_codec(**quantizer) -> SpeechCodec:
    config = compose(["experiment=tiny"]).model
    from omegaconf import OmegaConf

    settings = OmegaConf.to_container(config)
    settings["quantizer"] |= quantizer
    return SpeechCodec(**settings)


def test_warm_start_takes_what_fits(tmp_path):
    torch.manual_seed(0)
    source = tiny_codec()
    source.quantizer.initialise(torch.randn(640, 16), 64.0)
    save_weights(source, tmp_path, torch.float32)
    torch.manual_seed(1)
    fewer = tiny_codec(n_codebooks=2)
    assert warm_start(fewer, tmp_path) == []
    assert torch.equal(fewer.encoder.project[1].weight, source.encoder.project[1].weight)
    assert torch.equal(fewer.quantizer.levels[1].codebook.vectors, source.quantizer.levels[1].codebook.vectors)
    assert fewer.quantizer.started()
    smaller = tiny_codec(codebook_size=32)
    assert warm_start(smaller, tmp_path) == ["quantizer"]
    assert torch.equal(smaller.encoder.project[1].weight, source.encoder.project[1].weight)
    assert not smaller.quantizer.started()
    with pytest.raises(AudioVQError, match="no model"):
        warm_start(smaller, tmp_path / "nowhere")


def test_warm_start_of_parts_takes_each_from_its_own_model(tmp_path):
    sources = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        sources.append(tiny_codec())
        sources[-1].quantizer.initialise(torch.randn(640, 16), 64.0)
        save_weights(sources[-1], tmp_path / str(seed), torch.float32)
    torch.manual_seed(2)
    own = tiny_codec()
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    assert warm_start(own, {"encoder": tmp_path / "0", "quantizer": tmp_path / "0", "decoder": tmp_path / "1"}) == []
    for part, then in (
        ("encoder", sources[0].state_dict()),
        ("quantizer.levels.1.codebook.vectors", sources[0].state_dict()),
        ("decoder", sources[1].state_dict()),
        ("speaker_encoder", before),
    ):
        now = {name: tensor for name, tensor in own.state_dict().items() if f"{name}.".startswith(f"{part}.")}
        assert now
        assert all(torch.equal(tensor, then[name]) for name, tensor in now.items()), part
    with pytest.raises(AudioVQError, match="ears"):
        warm_start(own, {"ears": tmp_path / "0"})
