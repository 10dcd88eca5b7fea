"""Runs of a tiny WaveNet on a made-up corpus, on frozen codes and together with the encoder."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("hydra")

from audiovq.errors import AudioVQError
from audiovq.hub import codes_hash, save_weights
from audiovq.interfaces import Packet
from audiovq.speech.codec import SpeechCodec
from audiovq.training.run import compose, make_task, train
from audiovq.training.wavenet import WaveNetTask
from tests.training.runs import differences, step_of, unplugged_at
from tests.training.test_run import corpus  # noqa: F401

SETTINGS = {
    "training.max_steps": 6,
    "training.decay": 0.33,
    "training.batch_size": 2,
    "task.other_seconds": 0.5,
    "training.validation_items": 2,
    "training.validate_every": 3,
    "training.checkpoint_every": 3,
    "training.log_every": 2,
    "training.device": "cpu",
    "training.warmup_steps": 2,
    "task.preview_seconds": 0.1,
}
JOINT = {
    "model.encoder.channels": "[8,8,8,8,8,12]",
    "model.encoder.latent_dim": 6,
    "model.quantizer.codebook_size": 16,
    "model.speaker_encoder.n_speakers": 2,
    "task.crop_seconds": 0.1,
    "wavenet.stack": "{channels: 8, skip_channels: 8, n_layers: 4, dilation_cycle: 4}",
    "wavenet.backbone": "{channels: [8, 8, 8], upsample: [2, 2], dilations: [[1], [1], [1]]}",
    "task.preview_seconds": 0.1,
}


def config_of(experiment, corpus, folder, **changes):  # noqa: F811
    return compose(
        [f"experiment={experiment}", f"data.corpora=[{{name: {corpus}}}]", f"run_dir={folder}"]
        + [f"{key}={value}" for key, value in {**SETTINGS, **changes}.items()]
    )


@pytest.fixture
def model(codec, tmp_path):
    save_weights(codec, tmp_path / "model", torch.float32)
    return tmp_path / "model"


def frozen(corpus, model, folder, **changes):  # noqa: F811
    return config_of("wavenet_tiny", corpus, folder, **{"task.codec": model, "task.crop_seconds": 0.24, **changes})


def joint(corpus, folder, **changes):  # noqa: F811
    return config_of("paper_vctk", corpus, folder, **{"data.root": "unused", **JOINT, **changes})


@pytest.mark.parametrize("kind", ["frozen", "joint"])
def test_a_resumed_run_equals_an_uninterrupted_one(kind, corpus, model, tmp_path):  # noqa: F811
    def config(folder):
        return frozen(corpus, model, folder) if kind == "frozen" else joint(corpus, folder)

    train(config(tmp_path / "whole"))
    with unplugged_at(WaveNetTask, 4):
        train(config(tmp_path / "parts"))
    assert step_of(tmp_path / "parts") == 3
    train(config(tmp_path / "parts"))
    assert step_of(tmp_path / "parts") == 6
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


def test_training_learns_and_exports_a_model_that_decodes(corpus, model, tmp_path):  # noqa: F811
    changes = {"training.max_steps": 60, "training.validate_every": 20, "task.learning_rate": 5e-3}
    changes |= {"task.average_decay": 0.9, "training.decay": 0.33}
    folder = train(frozen(corpus, model, tmp_path / "run", **changes))
    codec = SpeechCodec.from_pretrained(folder / "best")
    assert codec.model_hash == codes_hash(model)
    assert codec.decoders == ["parallel", "wavenet"]
    tone = 0.3 * torch.sin(2 * torch.pi * 220 * torch.arange(8000) / 16000)
    decoded = codec.decode(codec.encode([tone]), decoder="wavenet")
    assert decoded.shape == (1, 1, 8000)
    assert torch.isfinite(decoded).all()
    first = SpeechCodec.from_pretrained(train(frozen(corpus, model, tmp_path / "short")) / "latest")
    assert bits(codec, tone) < bits(first, tone) - 1
    note = json.loads((folder / "best" / "training.json").read_text())
    assert note["step"] == 60


def bits(codec, tone):
    encoded = codec.encode([tone])
    wavenet, _ = codec.wavenet()
    with torch.inference_mode():
        speaker = codec.speaker_encoder.decode(encoded.speaker)
        nll = wavenet(tone[None, None], codec.quantizer.decode(encoded.codes), speaker)
        return float(wavenet.bits_per_sample(nll))


def test_the_paper_trains_encoder_and_decoder_together(corpus, tmp_path):  # noqa: F811
    config = joint(corpus, tmp_path / "run")
    task_before = make_task(config)
    folder = train(config)
    codec = SpeechCodec.from_pretrained(folder / "latest")
    assert codec.decoders == ["wavenet"]
    moved = [
        name
        for name, value in codec.state_dict().items()
        if not torch.equal(value, task_before.codec.state_dict()[name].half().float())
    ]
    for part in ("encoder.", "quantizer.", "speaker_encoder."):
        assert any(name.startswith(part) for name in moved)
    with pytest.raises(AudioVQError, match="it has: wavenet"):
        codec.decoder_stream(torch.zeros(1, dtype=torch.int64).numpy())
    stream = codec.decoder_stream(torch.ones(1, dtype=torch.int64).numpy(), "wavenet")
    codes = torch.zeros(1, 20, dtype=torch.int64).numpy()
    assert len(stream.push(Packet(codes))) + len(stream.finish(20 * 64)) == 20 * 64


def test_wrong_settings_are_one_clear_error(corpus, model, tmp_path):  # noqa: F811
    with pytest.raises(AudioVQError, match="another shape"):
        train(frozen(corpus, model, tmp_path, **{"task.backbone_from_codec": True}))
    with pytest.raises(AudioVQError, match="book_weights must be 4 numbers"):
        train(frozen(corpus, model, tmp_path, **{"task.book_weights": "[1,2]"}))
    with pytest.raises(AudioVQError, match="2 speakers"):
        train(joint(corpus, tmp_path, **{"model.speaker_encoder.n_speakers": 1}))
    with pytest.raises(AudioVQError, match=r"no VCTK.*root"):
        train(compose(["experiment=paper_vctk", f"data.root={tmp_path}", f"run_dir={tmp_path}/run", *small()]))


def small():
    return [f"{key}={value}" for key, value in JOINT.items()]
