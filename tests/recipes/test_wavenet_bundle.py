"""Bundling a WaveNet: from a run's export to `audiovq decode --decoder wavenet`, and its model card."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiovq.cli import main as audiovq
from audiovq.data.utterance import write_shards
from audiovq.hub import save_weights
from audiovq.wavenet.sampler import load_wavenet, save_wavenet
from recipes.bundling import replaced, run_script
from recipes.wavenet import bundle
from tests.codec.tiny import make_codec, speech_like
from tests.evaluation.conftest import fake_utterances
from tests.wavenet.tiny import make_wavenet


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """The folder of a bundled model, and a recording that it has coded."""
    monkeypatch.setattr("audiovq.hub.BUNDLED", tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pretrained" / "speech"
    save_weights(make_codec(), folder, torch.float32)
    soundfile.write("a.wav", speech_like(1.0), 16000)
    assert audiovq(["encode", "a.wav"]) == 0
    return folder


def make_run(folder: Path, seed: int = 0) -> str:
    """What a training on the bundled codec (another one for another seed) exports."""
    save_weights(make_codec(seed), folder, torch.float32)
    wavenet = make_wavenet(temperature=[0.5, 0.5, 1.0, 1.0])
    save_wavenet(wavenet.state_dict(), wavenet.config, folder)
    note = {"step": 1200, "minutes": 20.5, "validation": {"loss": 1.0}}
    (folder / "training.json").write_text(json.dumps(note))
    return str(folder)


def call(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["bundle.py", *arguments])
    run_script(bundle.main)


def decode(*arguments: str) -> int:
    return audiovq(["decode", "a.avq", "-o", "out.wav", "--decoder", "wavenet", "-f", *arguments])


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_bundled_wavenet_is_the_one_that_decode_uses(bundled, monkeypatch, capsys, dtype):
    assert decode() == 1
    assert "has no decoder 'wavenet'" in capsys.readouterr().err
    run = make_run(Path("run"))
    call(monkeypatch, run, "--dtype", dtype)
    assert "1,200 steps in 20.5 minutes" in capsys.readouterr().out
    assert decode() == 0
    sampled, _ = soundfile.read("out.wav")
    assert audiovq(["decode", "a.avq", "-o", "other.wav"]) == 0
    assert not np.array_equal(sampled, soundfile.read("other.wav")[0])
    assert decode("--model", run) == 0  # within rounding the weights are those of the run
    stored, trained = load_wavenet(bundled), load_wavenet(Path(run))
    assert stored.config == trained.config
    rounding = 2**-7 if dtype == "int8" else 2**-11
    for (name, one), other in zip(stored.state_dict().items(), trained.state_dict().values(), strict=True):
        assert (one - other).abs().max() <= rounding * other.abs().max() + 1e-6, name
    size = (bundled / "wavenet" / "model.safetensors").stat().st_size
    assert size < (0.8 if dtype == "int8" else 1.01) * (Path(run) / "wavenet" / "model.safetensors").stat().st_size


def test_its_card_names_the_codes_and_has_the_figures(bundled, monkeypatch):
    run = make_run(Path("run"))
    utterances = fake_utterances("a", [3.5, 3.0, 6.0], "en", "some words")
    for utterance in utterances:
        utterance.source = utterance.licence = "made up"
        utterance.split = "test"
    write_shards(utterances, Path("corpus"))
    options = ["--data", "corpus", "--codebooks", "2,4", "--metrics", "mel,level", "--json", "figures.json"]
    assert audiovq(["evaluate", "codec", "--decoder", "wavenet", "--model", run, *options]) == 0
    call(monkeypatch, run, "--figures", "figures.json")
    card = (bundled / "wavenet" / "README.md").read_text()
    made_for = json.loads((bundled / "wavenet" / "config.json").read_text())["made_for"]
    assert card.startswith("---\nlicense")
    assert made_for["codes"] in card
    assert made_for["decoder"] in card
    report = json.loads(Path("figures.json").read_text())["systems"]
    for system in (one for one in report if one["compared_with"]):
        assert f"{system['metrics']['mel']['mean']:.2f}" in card
        assert f"{system['difference']['mel']['mean']:+.2f}" in card
    assert card.count("| difference |") == 2


def test_refusals_are_one_line_and_leave_the_bundled_model_alone(bundled, monkeypatch, tmp_path, capsys):
    call(monkeypatch, make_run(Path("run")))
    before = {path: path.read_bytes() for path in bundled.rglob("*") if path.is_file()}
    save_weights(make_codec(), "plain", torch.float32)
    Path("figures.json").write_text('{"systems": [], "protocol": {}}')
    for arguments, says in (
        ([make_run(Path("other"), seed=1)], "is for codes"),
        (["plain"], "has no WaveNet"),
        (["nowhere"], "no model 'nowhere'"),
        (["run", "--figures", "figures.json"], "have no WaveNet"),
        (["run", "--figures", "missing.json"], "missing.json"),
    ):
        with pytest.raises(SystemExit, match=says) as error:
            call(monkeypatch, *arguments)
        assert "\n" not in str(error.value)
    monkeypatch.setattr(bundle, "MOST_BYTES", 100)
    with pytest.raises(SystemExit, match="the weights have"):
        call(monkeypatch, "run")
    assert {path: path.read_bytes() for path in bundled.rglob("*") if path.is_file()} == before
    assert [path.name for path in bundled.iterdir() if path.is_dir()] == ["wavenet"]
    # The weights of the codec change: what was bundled for the earlier ones is refused.
    save_weights(make_codec(seed=1), bundled, torch.float32)
    assert audiovq(["encode", "a.wav", "-f"]) == 0
    capsys.readouterr()
    assert decode() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "was trained on another codec or parallel decoder" in line
    assert not Path("out.wav").exists()


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "part"
    for text in ("first", "second"):
        with replaced(target, 100) as new:
            (new / "model.safetensors").write_text(text)
            (new / text).touch()
    assert sorted(path.name for path in target.iterdir()) == ["model.safetensors", "second"]

    def fail():
        with replaced(target, 100) as new:
            (new / "model.safetensors").write_text("third")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (target / "model.safetensors").read_text() == "second"
    assert list(tmp_path.iterdir()) == [target]
