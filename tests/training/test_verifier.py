"""The judge of conversion: it learns who speaks, resumes exactly, and refuses other speakers."""

from __future__ import annotations

import json
import math

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("hydra")

from audiovq.data.corpora import open_corpora
from audiovq.data.crops import CropDataset
from audiovq.errors import AudioVQError
from audiovq.training.run import compose, train
from audiovq.training.verifier import SpeakerVerifier
from audiovq.training.verifier_task import VerifierTask
from tests.training.test_run import corpus, train_until, weights  # noqa: F401
from tests.training.test_voice_codec import overrides as voice_overrides


def overrides(corpus, folder, **changes):  # noqa: F811
    settings = {
        "training.max_steps": 40,
        "training.decay_steps": 10,
        "training.batch_size": 4,
        "training.crop_seconds": 0.4,
        "training.validation_items": 4,
        "training.validate_every": 10,
        "training.checkpoint_every": 10,
        "training.accelerator": "cpu",
        "training.log_every": 10,
        "task.warmup_steps": 5,
        "task.verifier.channels": 16,
        "task.verifier.dilations": "[1,2]",
        "task.coded_share": 0.25,
        **changes,
    }
    return compose(
        ["experiment=verifier_debian", f"data.corpora=[{{name: {corpus}}}]", f"run_dir={folder}"]
        + [f"{key}={value}" for key, value in settings.items()]
    )


def test_it_tells_voices_apart_and_resumes_exactly(corpus, tmp_path):  # noqa: F811
    train(overrides(corpus, tmp_path / "whole"))
    interrupted = overrides(corpus, tmp_path / "parts")
    with pytest.raises(RuntimeError, match="pulled the plug"):
        train_until(interrupted, 16, VerifierTask)
    train(interrupted)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []

    verifier = SpeakerVerifier.load(tmp_path / "whole" / "latest")
    held_out = CropDataset(open_corpora([{"name": str(corpus)}], "validation"), 6400, 6400, seed=3)
    items = [held_out[i] for i in range(12)]
    vectors = verifier(torch.stack([item["waveform"] for item in items]))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(12))
    wanted = [held_out.speakers[item["speaker"]] for item in items]
    assert {"low", "high"} == set(wanted)
    assert [verifier.speakers[i] for i in verifier.cosines(vectors).argmax(1)] == wanted
    louder = verifier(0.3 * torch.stack([item["waveform"] for item in items]))
    assert torch.nn.functional.cosine_similarity(louder, vectors).min() > 0.99  # the level is not the voice


def test_other_speakers_are_refused(corpus, tmp_path):  # noqa: F811
    SpeakerVerifier(["somebody", "else"], channels=8).save(tmp_path / "verifier")
    wrong = voice_overrides(corpus, tmp_path / "run", **{"task.verifier": tmp_path / "verifier"})
    with pytest.raises(AudioVQError, match="other speakers"):
        train(wrong)
    with pytest.raises(AudioVQError, match="no speaker verifier"):
        train(voice_overrides(corpus, tmp_path / "run2", **{"task.verifier": tmp_path / "nothing"}))


def test_saved_and_loaded_is_the_same(tmp_path):
    torch.manual_seed(0)
    verifier = SpeakerVerifier(["a", "b", "ć"], dim=8, channels=8, dilations=[1]).eval()
    verifier.save(tmp_path)
    waveform = torch.randn(2, 1, 8000)
    again = SpeakerVerifier.load(tmp_path)
    assert torch.equal(verifier(waveform), again(waveform))
    assert again.speakers == ["a", "b", "ć"]
    assert json.loads((tmp_path / "config.json").read_text())["dim"] == 8


def test_nearer_to_the_wanted_voice_costs_less():
    verifier = SpeakerVerifier(["a", "b"], dim=3, channels=8, dilations=[1])
    wanted, other = torch.eye(3)[:1], torch.eye(3)[1:2]
    between = torch.nn.functional.normalize(wanted + other, dim=1)
    losses = [float(verifier.nearer(vector, wanted, other)) for vector in (wanted, between, other)]
    assert losses == sorted(losses)
    assert losses[0] < 0.01
    assert float(verifier.nearer(between, wanted, other, margin=0.0)) == pytest.approx(math.log(2))
