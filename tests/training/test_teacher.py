"""The loss on what a teacher heard: what counts, and that a codec can learn from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiovq.data.teacher import DIM, HOP, TeacherFeatures
from audiovq.errors import AudioVQError
from audiovq.speech.codec import SpeechCodec
from audiovq.training import data
from audiovq.training.run import train
from audiovq.training.teacher import TeacherLoss
from tests.training.runs import state_of
from tests.training.test_run import corpus, overrides  # noqa: F401


@torch.no_grad()
def test_a_constant_reaches_one_and_what_was_not_heard_does_not_count():
    torch.manual_seed(0)
    loss, taught = TeacherLoss(8), torch.randn(2, 40, DIM)
    loss.head.weight.zero_()
    loss.head.bias.zero_()
    assert float(loss(torch.randn(2, 8, 40), taught)) == pytest.approx(1.0, rel=0.05)
    taught[1] = 0
    partly = loss(torch.randn(2, 8, 40), taught)
    assert float(partly) == pytest.approx(float(loss(torch.randn(1, 8, 40), taught[:1])))
    assert float(loss(torch.randn(2, 8, 40), torch.zeros(2, 40, DIM))) == 0


@torch.no_grad()
def test_features_are_averaged_to_the_latents_rate():
    loss = TeacherLoss(8)
    taught = torch.randn(1, 40, DIM)
    pooled = taught.reshape(1, 20, 2, DIM).mean(2)
    latents = torch.randn(1, 8, 20)
    assert float(loss(latents, taught)) == pytest.approx(float(loss(latents, pooled)), rel=1e-5)


@pytest.fixture
def heard(monkeypatch):
    """A teacher that hears noise."""

    def hear(utterances, progress=None, fitted_on=None):
        draw = np.random.default_rng(0)
        return TeacherFeatures({u.id: draw.standard_normal((-(-u.n_samples // HOP), DIM)) for u in utterances})

    monkeypatch.setattr(data, "teacher_features", hear)


def test_codes_from_a_teacher_alone_and_then_a_decoder_for_them(corpus, tmp_path, heard):  # noqa: F811
    alone = {f"task.weights.{name}": 0.0 for name in ("mel", "complex", "magnitude", "waveform", "envelope")}
    alone |= {"task.weights.teacher": 1.0, "task.adversarial_start": "null"}
    taught = train(overrides(corpus, tmp_path / "taught", **alone))
    rest = {"task.frozen": "[encoder,quantizer,speaker_encoder]", "training.init_from": taught / "latest"}
    decoding = train(overrides(corpus, tmp_path / "decoding", **rest))
    first, then = (SpeechCodec.from_pretrained(f / "latest") for f in (taught, decoding))
    assert first.model_hash == then.model_hash, "codes keep their meaning"
    for name, moved in (("encoder", False), ("decoder", True)):
        weights = [getattr(m, name).state_dict() for m in (first, then)]
        same = all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
        assert same != moved, name
    with pytest.raises(AudioVQError, match="frozen"):
        train(overrides(corpus, tmp_path / "none", **{"task.frozen": "[ears]"}))


def test_a_codec_learns_from_a_teacher(corpus, tmp_path, heard):  # noqa: F811
    folder = train(overrides(corpus, tmp_path / "taught", **{"task.weights.teacher": 1.0}))
    plain = train(overrides(corpus, tmp_path / "plain"))
    states = [state_of(f) for f in (folder, plain)]
    assert ["teacher.head.weight" in state for state in states] == [True, False]
