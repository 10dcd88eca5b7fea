"""Fitting a prior: codes made once, exact resume, learning, export."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("hydra")

from audiovq.codec.codec import SpeechCodec
from audiovq.data.codes import CodesCache, cached_codes
from audiovq.data.tokens import CodeRuns, CodeStretches, make_tapes
from audiovq.data.utterance import write_corpus
from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.interfaces import N_VALUES
from audiovq.prior import SpeechPrior
from audiovq.training.codes import CodePriorTask
from audiovq.training.run import compose, train
from tests.training.runs import differences, step_of, unplugged_at

ABSENT = N_VALUES + 1


@pytest.fixture
def corpus(tmp_path):
    """Three splits of two voices, a second and less each."""
    rng = np.random.default_rng(0)
    with write_corpus(tmp_path / "corpus") as writer:
        for split in ("train", "validation", "test"):
            for voice, language in (("low", "en"), ("high", "cs")):
                for take in range(3):
                    time = np.arange(9600 + 3200 * take) / 16000
                    tone = 0.3 * np.sin(2 * np.pi * (110 if voice == "low" else 220) * time * (1 + 0.01 * take))
                    writer.add(
                        (tone + 0.01 * rng.standard_normal(len(time))).astype(np.float32),
                        id=f"{voice}-{take}-{split}",
                        speaker=voice,
                        language=language,
                        text=None,
                        source="made up",
                        licence="none",
                        split=split,
                    )
    return tmp_path / "corpus"


@pytest.fixture
def model(codec, tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path / "cache"))
    save_weights(codec, tmp_path / "model")
    return tmp_path / "model"


def config(corpus, model, folder, **changes):
    settings = {
        "training.max_steps": 6,
        "training.decay": 0.33,
        "training.batch_size": 2,
        "task.crop_seconds": 0.5,
        "training.validation_items": 4,
        "training.validate_every": 3,
        "training.checkpoint_every": 3,
        "training.log_every": 2,
        "training.device": "cpu",
        "prior.width": 32,
        "prior.backbone.window": 10,
        "prior.depth.depth_width": 16,
        "task.codec": model,
        **changes,
    }
    return compose(
        ["experiment=prior_tiny", f"data.corpora=[{{name: {corpus}}}]", f"run_dir={folder}"]
        + [f"{key}={value}" for key, value in settings.items()]
    )


def test_a_resumed_run_equals_an_uninterrupted_one(corpus, model, tmp_path):
    """With dropout of units, conditions and books; the stop falls between checkpoints."""
    train(config(corpus, model, tmp_path / "whole"))
    with unplugged_at(CodePriorTask, 5):
        train(config(corpus, model, tmp_path / "parts"))
    assert step_of(tmp_path / "parts") == 3
    train(config(corpus, model, tmp_path / "parts"))
    assert step_of(tmp_path / "parts") == 6
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


def test_training_learns_and_exports_a_prior_that_speaks(corpus, model, tmp_path):
    changes = {
        "training.max_steps": 60,
        "training.validate_every": 30,
        "training.warmup_steps": 5,
        "task.average_decay": 0.9,
    }
    folder = train(config(corpus, model, tmp_path / "run", **changes))
    told = json.loads((folder / "best" / "training.json").read_text())
    assert told["validation"]["loss"] < 0.9 * np.log(32)
    source = SpeechPrior.from_pretrained(model, folder / "best")
    assert source.prior.config["languages"] == ["cs", "en"]
    encoded = source.generate(0.3, 2, language="cs")
    assert source.codec.decode(encoded).shape == (2, 1, 4800)


def test_a_run_begins_from_another_prior_of_the_same_shape(corpus, model, tmp_path):
    first = train(config(corpus, model, tmp_path / "first", **{"training.max_steps": 30, "task.average_decay": 0.9}))
    start = {"training.init_from": first / "best", "training.max_steps": 1, "training.warmup_steps": 1000}
    begun = train(config(corpus, model, tmp_path / "begun", **start, **{"training.validate_every": 1}))
    found = [json.loads((f / "best" / "training.json").read_text())["validation"]["loss"] for f in (first, begun)]
    assert found[1] == pytest.approx(found[0], abs=0.02), "one tiny step from where the other ended"
    with pytest.raises(AudioVQError, match="another shape"):
        train(config(corpus, model, tmp_path / "wide", **start, **{"prior.width": 48}))
    with pytest.raises(AudioVQError, match="no prior"):
        train(config(corpus, model, tmp_path / "none", **start | {"training.init_from": model}))


def test_the_paper_s_prior_trains_too(corpus, model, tmp_path):
    small = {
        "prior.backbone.channels": 16,
        "prior.backbone.skip_channels": 16,
        "prior.backbone.n_layers": 3,
        "prior.backbone.dilation_cycle": 3,
    }
    settings = config(corpus, model, tmp_path / "run")
    overrides = [
        "experiment=prior",
        "prior=wavenet",
        f"data.corpora=[{{name: {corpus}}}]",
        f"run_dir={tmp_path / 'run'}",
    ]
    plain = {key: value for key, value in settings.training.items() if isinstance(value, str | int | float)}
    small |= {f"training.{key}": value for key, value in plain.items()}
    small |= {"prior.width": 16, "prior.depth.depth_width": 16, "prior.depth.hidden": 16, "task.codec": model}
    folder = train(compose(overrides + [f"{key}={value}" for key, value in small.items()]))
    assert SpeechPrior.from_pretrained(model, folder / "best").generate(0.2, 1).codes.shape == (1, 4, 10)


# -- codes on disk --------------------------------------------------------------------------------------------------


def test_codes_are_made_once_and_are_those_of_the_files(corpus, model, monkeypatch):
    codec = SpeechCodec.from_pretrained(model)
    cache = cached_codes(codec, [{"name": str(corpus)}])
    from audiovq.data.corpora import open_corpus

    for utterance, coded in zip(open_corpus(str(corpus), None), cache.utterances, strict=True):
        encoded = codec.encode([torch.from_numpy(utterance.load())], n_codebooks=codec.n_codebooks)
        assert np.array_equal(coded.codes, encoded.codes[0].numpy())
        assert np.array_equal(coded.voice, encoded.speaker[0].numpy())
        assert (coded.id, coded.split, coded.n_samples) == (utterance.id, utterance.split, utterance.n_samples)
    monkeypatch.setattr(type(codec), "encoder_stream", None)  # coding again would fail
    assert cached_codes(codec, [str(corpus)]).folder == cache.folder
    kept, codec.model_hash = codec.model_hash, b"abcd"
    with pytest.raises(TypeError):
        cached_codes(codec, [str(corpus)])
    codec.model_hash = kept
    with pytest.raises(AudioVQError, match="split"):
        cache.split("unseen")
    (cache.folder / "codes.u16").write_bytes(b"\0" * 16)
    with pytest.raises(AudioVQError, match="delete"):
        CodesCache(cache.folder)


@pytest.fixture
def tapes(corpus, model):
    return make_tapes(cached_codes(SpeechCodec.from_pretrained(model), [str(corpus)]).split("train"))


def test_runs_hold_every_code_once(tapes):
    runs = CodeRuns(tapes, ["cs", "en"], 40, absent=ABSENT)
    found = [runs[i] for i in range(len(runs))]
    codes = torch.cat([item["codes"] for item in found], dim=1)
    whole = np.concatenate([tape.streams for tape in tapes], axis=1)
    assert np.array_equal(codes[:, codes[0] != ABSENT].numpy(), whole)
    for item, (tape, start) in zip(found, runs.places, strict=True):
        expected = tape.streams[:, start - 1] if start else np.full(5, ABSENT)
        assert np.array_equal(item["before"].numpy(), expected)


def test_stretches_depend_on_seed_and_index_and_drop_what_they_should(tapes):
    def make(**changes):
        arguments = {"n_frames": 30, "absent": ABSENT, "seed": 3, "condition_dropout": 0.5, "book_dropout": 0.5}
        return CodeStretches(tapes, ["cs", "en"], **{**arguments, **changes})

    items, again, other = make(), make(), make(seed=4)
    for i in (0, 7, 1 << 30):
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(again[i][k])) for k, v in items[i].items())
    assert any(not torch.equal(items[i]["codes"], other[i]["codes"]) for i in range(5))
    drawn = [items[i] for i in range(200)]
    kept = np.mean([item["keep_speaker"] for item in drawn])
    shown = [int((item["codes"][:, 0] != ABSENT).sum()) for item in drawn]
    began = np.mean([bool((item["before"] == ABSENT).all()) for item in drawn])
    assert 0.3 < kept < 0.7
    assert {2, 3, 4, 5} == set(shown)
    assert 0.35 < began < 0.65
    for item in drawn:
        present = item["codes"] != ABSENT
        assert torch.equal(present, present[:, :1].expand_as(present))
        assert (present[:-1] | ~present[1:]).all()
    full = make(book_dropout=0.0)
    assert all((full[i]["codes"] < ABSENT).all() for i in range(20))
