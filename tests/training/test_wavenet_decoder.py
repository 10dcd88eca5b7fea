"""Training the WaveNet decoder on the codes of a tiny frozen codec."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("hydra")

from audiovq.codec.codec import SpeechCodec
from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.training import packing
from audiovq.training.offline import build, train_from_pack
from audiovq.training.packing import PackOptions, write_pack
from audiovq.training.run import Run, compose
from audiovq.training.states import join
from audiovq.training.wavenet import WaveNetDecoderTask, make_metrics, on_phase_of
from tests.codec.tiny import make_codec, speech_like
from tests.training.tiny_codec import write_packed

DECODER = {
    "condition": {"channels": 12, "dilations": [1]},
    "stack": {"channels": 8, "skip_channels": 8, "n_layers": 4, "dilation_cycle": 4, "kernel_size": 2},
    "taps": 2,
    "n_mixtures": 2,
    "kernel_size": 3,
}
PLAN = {
    "max_steps": 4,
    "minutes": None,
    "decay": 0.2,
    "warmup_steps": 2,
    "validate_every": 1000,
    "checkpoint_every": 1000,
    "log_every": 2,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_packed(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec")
    save_weights(make_codec(), folder, torch.float32)
    return folder


@pytest.fixture
def settings(corpus, codec):
    return {
        "_target_": "audiovq.training.wavenet.WaveNetDecoderTask",
        "decoder": DECODER,
        "codec": str(codec),
        "corpus": str(corpus),
        "batch_size": 2,
        "learning_rate": 1.5e-3,
        "crop_frames": 12,
        "other_frames": 20,
        "validation_items": 1,
        "validation_frames": 20,
        "validation_codebooks": [2, 8],
        "device": "cpu",
        "precision": "float32",
        "seed": 3,
    }


def make_task(settings) -> WaveNetDecoderTask:
    torch.manual_seed(0)
    return build(settings)


def test_a_resumed_run_equals_an_uninterrupted_one(settings, tmp_path):
    whole = make_task(settings)
    Run(tmp_path / "whole", seed=1, **PLAN).fit(whole)
    first, halfway = make_task(settings), Run(tmp_path / "run", seed=1, **PLAN)
    halfway.ended = lambda: halfway.step >= 2
    halfway.fit(first)
    second, run = make_task(settings), Run(tmp_path / "run", seed=1, **PLAN)
    assert run.resume(second)
    assert run.step == 2
    run.fit(second)
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), first.parameters(), strict=True))
    for (name, a), b in zip(whole.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    exported = SpeechCodec.from_pretrained(tmp_path / "run" / "latest")
    assert exported.decoders == ["parallel", "wavenet"]
    speech = speech_like(0.5)
    encoded = exported.encode(speech)
    assert torch.equal(encoded.codes, SpeechCodec.from_pretrained(settings["codec"]).encode(speech).codes)
    decoded = exported.decode(encoded, "wavenet")
    assert torch.isfinite(decoded).all()
    assert decoded.shape == (1, 1, len(speech))


def test_the_likelihood_rises(settings, corpus):
    task, losses = make_task(settings), []
    run = Run(corpus / "unused", seed=1, **{**PLAN, "max_steps": 100})
    for run.step in range(40):
        torch.manual_seed(run.step)
        losses.append(float(task.training_step(run.place())["nats"]))
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5


def test_targets_have_the_magnitudes_of_the_recording_and_the_phase_of_the_other():
    torch.manual_seed(0)
    recording, other = torch.from_numpy(speech_like(1.0))[None], torch.randn(1, 16000)
    torch.testing.assert_close(on_phase_of(recording, recording, 512), recording, atol=1e-5, rtol=0)
    # Scaling changes no phase.
    torch.testing.assert_close(on_phase_of(3 * other, 0.1 * other, 512), 3 * other, atol=1e-4, rtol=0)
    target = on_phase_of(recording, other, 512)

    def distance(a, b):
        window = torch.hann_window(512)
        a, b = (torch.stft(x, 512, 128, window=window, return_complex=True) for x in (a, b))
        return float((a.abs() - b.abs()).norm() / b.abs().norm())

    assert distance(target, recording) < 0.5 * distance(other * recording.std(), recording)


def test_training_from_a_pack(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "download_wheels", lambda *_: [])
    plan = {**PLAN, "max_steps": 2, "threads": 1, "init_from": None, "resume_from": None}
    config = {"name": "tiny", "seed": 1, "model": None, "task": settings, "training": plan}
    write_pack(config, tmp_path / "pack", PackOptions(audio="int16"))
    train_from_pack(tmp_path / "pack", tmp_path / "out", 5.0, tmp_path / "work")
    assert join(tmp_path / "out", tmp_path / "run") == 2
    # Here, the same command exports what is finished.
    task, run = make_task(settings), Run(tmp_path / "run", seed=1, **{**PLAN, "max_steps": 2})
    assert run.resume(task)
    run.fit(task)
    assert SpeechCodec.from_pretrained(tmp_path / "run" / "latest").decoders == ["parallel", "wavenet"]


def test_a_codec_that_is_not_there_and_wrong_weights_are_refused(settings):
    with pytest.raises(AudioVQError, match="no model 'nowhere'"):
        build({**settings, "codec": "nowhere"})
    with pytest.raises(AudioVQError, match="4 numbers"):
        build({**settings, "book_weights": [1, 2]})


def test_metrics_whose_packages_are_missing_are_left_out():
    assert make_metrics(["audiovq.no_such_module.Metric"]) == []


def test_the_experiment_composes():
    config = compose(["experiment=wavenet", "task.codec=DIR"])
    assert config.task.codec == "DIR"
    assert config.task.batch_size == config.training.batch_size
