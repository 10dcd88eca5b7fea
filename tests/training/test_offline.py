"""Training from a pack: sittings by the clock leave states that go on exactly, also from a bare bootstrap."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from audiovq.errors import AudioVQError
from audiovq.training import packing
from audiovq.training.offline import Sitting, build, override, train_from_pack
from audiovq.training.packing import PackOptions, download_wheels, plain_name, read_names, write_pack
from audiovq.training.run import Run
from audiovq.training.states import Limits, join, read_set
from tests.training.tiny_codec import task_config, write_packed

PLAN = {
    "max_steps": 6,
    "minutes": None,
    "decay": 0.2,
    "warmup_steps": 2,
    "validate_every": 1000,
    "checkpoint_every": 1000,
    "log_every": 2,
    "threads": 1,
    "init_from": None,
    "resume_from": None,
}
SCHEDULE = {k: v for k, v in PLAN.items() if k not in ("threads", "init_from", "resume_from")} | {"seed": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_packed(tmp_path_factory.mktemp("packed"))


def config_of(corpus, **plan):
    task = task_config(corpus)
    return {"name": "tiny", "seed": 1, "model": task["model"], "task": task, "training": {**PLAN, **plan}}


@pytest.fixture
def make_pack(corpus, tmp_path, monkeypatch):
    """A function that writes a pack of the tiny corpus, without wheels."""
    monkeypatch.setattr(packing, "download_wheels", lambda *_: [])

    def make(run=None, audio="int16", **plan):
        write_pack(config_of(corpus, **plan), tmp_path / "pack", PackOptions(audio=audio, piece_bytes=1 << 19), run)
        return tmp_path / "pack"

    return make


def sitting(folder, out, length=5.0, **plan):
    settings = {**SCHEDULE, **plan}
    ends = time.perf_counter() + 60 * length
    return Sitting(folder, out, None, Limits(), ends, 60.0, **settings)


def test_sittings_and_a_run_after_them_equal_one_run(corpus, tmp_path):
    def task():
        torch.manual_seed(0)
        return build(task_config(corpus))

    whole = task()
    Run(tmp_path / "whole", **SCHEDULE).fit(whole)

    class Interrupted(Sitting):
        stop_at = 0

        def ended(self):
            return super().ended() or self.step >= self.stop_at

    for stop_at in (2, 4):
        run = sitting(tmp_path / "work", tmp_path / "out")
        run.__class__ = Interrupted
        run.stop_at = stop_at
        run.fit(task())
        assert read_set(tmp_path / "out")[1]["step"] == stop_at
    assert join(tmp_path / "out", tmp_path / "run") == 4
    last, run = task(), Run(tmp_path / "run", **SCHEDULE)
    assert run.resume(last)
    run.fit(last)
    for (name, a), b in zip(whole.state_dict().items(), last.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("plan", [{"max_steps": None}, {"max_steps": None, "minutes": 60}, {"max_steps": 10_000}])
def test_a_sitting_ends_by_the_clock(corpus, tmp_path, monkeypatch, plan):
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: 0.01 * next(ticks))  # a glance at the clock takes 10 ms
    run = sitting(tmp_path / "work", tmp_path / "out", 0.1, **plan)
    run.fit(build(task_config(corpus)))
    assert 0 < run.step < 1000
    assert (run.place().progress >= 1) == run.whole
    assert time.perf_counter() < run.ends
    assert read_set(tmp_path / "out")[1]["step"] == run.step


def test_rates_fall_to_zero_over_a_sitting_that_is_the_whole_run(corpus, tmp_path):
    run = sitting(tmp_path / "work", tmp_path / "out", 1.0, max_steps=None)
    run.step = 100
    assert run.place().rate == 1.0
    run.began -= 9 * (run.deadline - run.began)  # as if nine tenths of the time were over
    assert run.place().progress == pytest.approx(0.9, abs=0.01)
    assert run.place().rate == pytest.approx(0.5, abs=0.05)


def test_weights_that_are_not_finite_never_replace_results(corpus, tmp_path):
    task = build(task_config(corpus))
    run = sitting(tmp_path / "work", tmp_path / "out")
    run.save(task)
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    with torch.no_grad():
        next(task.model.decoder.parameters()).fill_(math.nan)
    run.step = 7
    with pytest.raises(AudioVQError, match="not finite at step 7"):
        run.save(task)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before


def test_pack_train_join_and_train_on(make_pack, corpus, tmp_path):
    pytest.importorskip("av")
    pack = make_pack(audio="opus", max_steps=3)
    sizes = {path.name: path.stat().st_size for path in pack.iterdir()}
    manifest = json.loads((pack / "manifest.json").read_text())
    assert {piece["name"]: piece["bytes"] for piece in manifest["pieces"]}.items() <= sizes.items()
    assert max(sizes.values()) <= 1 << 19
    out = tmp_path / "out"
    train_from_pack(pack, out, 5.0, tmp_path / "work", ["task.batch_size=3"])
    assert "done: step 3" in (out / "train.log").read_text()
    assert json.loads((out / "config.json").read_text())["task"]["batch_size"] == 3
    assert join(out, tmp_path / "run") == 3
    state, exported = load_file(tmp_path / "run" / "state.safetensors"), tmp_path / "run" / "latest"
    weights = load_file(exported / "model.safetensors")
    assert torch.equal(weights["decoder.gains.weight"], state["average.decoder.gains.weight"].half())
    assert any(name.startswith("optimizer/model/") for name in state)
    task = build(task_config(corpus))
    run = Run(tmp_path / "run", **{**SCHEDULE, "max_steps": 5})
    assert run.resume(task)
    run.fit(task)
    assert json.loads((tmp_path / "run" / "state.json").read_text())["step"] == 5
    # The other way: from that run to a pack, and on.
    pack = make_pack(run=tmp_path / "run", max_steps=7)
    train_from_pack(pack, tmp_path / "out2", 5.0, tmp_path / "work2")
    log = (tmp_path / "out2" / "train.log").read_text()
    assert "at step 5" in log
    assert "done: step 7" in log


def test_a_pack_begins_from_models(make_pack, corpus, tmp_path):
    torch.manual_seed(8)
    task = build(task_config(corpus))
    task.export(tmp_path / "model")
    pack = make_pack(init_from={"decoder": str(tmp_path / "model")})
    train_from_pack(pack, tmp_path / "out", 0.0, tmp_path / "work")
    start = read_set(tmp_path / "out")[0]
    exported = load_file(tmp_path / "model" / "model.safetensors")
    for part, same in (("decoder.gains.weight", True), ("encoder.detail.layers.0.weight", False)):
        assert torch.equal(start[f"model.{part}"].half(), exported[part]) == same


def test_the_bootstrap_runs_the_packed_code(make_pack, tmp_path):
    pack, copy = make_pack(max_steps=2), tmp_path / "elsewhere"
    copy.mkdir()
    for path in pack.iterdir():
        shutil.copy(path, copy)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "AUDIOVQ_CACHE")}
    command = [sys.executable, str(copy / "run.py"), "--minutes", "5", "--out", str(tmp_path / "out")]
    result = subprocess.run(
        [*command, "task.batch_size=2"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert read_set(tmp_path / "out")[1]["step"] == 2
    assert len(list((tmp_path / "out").iterdir())) <= 8
    code = next((copy / "unpacked").glob("site-*"))
    assert (code / "audiovq" / "training" / "offline.py").is_file()
    assert not (code / "audiovq" / "pretrained").exists()
    next(copy.glob("piece-*")).unlink()
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.strip().endswith("missing pieces: piece-01.zip")


def test_settings():
    config = {"task": {"batch_size": 4, "weights": {"mel": 1.0}}, "name": "a"}
    override(config, ["task.batch_size=8", "task.weights.mel=0.5", "name=b"])
    assert config == {"task": {"batch_size": 8, "weights": {"mel": 0.5}}, "name": "b"}
    for wrong in ("task.size=1", "name.x=1", "batch_size", "task.batch_size"):
        with pytest.raises(AudioVQError, match="no such setting"):
            override(config, [wrong])


def test_tasks_on_other_data_and_unknown_audio_are_refused(corpus, tmp_path):
    with pytest.raises(AudioVQError, match=r"task\.corpus"):
        write_pack({"training": {"max_steps": 3}, "task": {"corpora": []}}, tmp_path, PackOptions())
    with pytest.raises(AudioVQError, match="opus, flac, int16"):
        write_pack(config_of(corpus), tmp_path, PackOptions(audio="mp3"))


def test_two_ends_are_refused_before_anything_is_written(make_pack, tmp_path):
    with pytest.raises(AudioVQError, match="null for both"):
        make_pack(minutes=3)
    assert not (tmp_path / "pack").exists()
    with pytest.raises(AudioVQError, match="null for both"):
        train_from_pack(make_pack(), tmp_path / "out", 1.0, tmp_path / "work", ["training.minutes=3"])
    assert not (tmp_path / "work").exists()


def test_names_of_packages(tmp_path):
    assert read_names("torch, numba,scikit_learn") == ["torch", "numba", "scikit_learn"]
    (tmp_path / "list").write_text("torch==2.11.0\n# comment\nNumPy>=2\nzipp @ file:///x\n\n")
    assert read_names(str(tmp_path / "list")) == ["torch", "NumPy", "zipp"]
    assert plain_name("Scikit_Learn.x") == "scikit-learn-x"


def test_wheels_follow_dependencies_but_not_beyond_what_is_there(tmp_path, monkeypatch):
    import zipfile

    needs = {"one": ["two>=1", "three", 'old; python_version < "3.11"', 'x; extra == "dev"'], "two": ["one", "four"]}
    asked = []

    def fake(name, versions, python, folder):
        asked.append((name, versions, python))
        folder.mkdir()
        with zipfile.ZipFile(folder / f"{name}-1.whl", "w") as file:
            lines = ["Metadata-Version: 2.1", *[f"Requires-Dist: {text}" for text in needs.get(name, [])]]
            file.writestr(f"{name}-1.dist-info/METADATA", "\n".join(lines) + "\n\n")
        return folder / f"{name}-1.whl"

    monkeypatch.setattr(packing, "_download", fake)
    monkeypatch.setattr(packing.importlib.metadata, "requires", lambda _: ["one", "Three_", 'dev; extra == "dev"'])
    wheels = download_wheels(["three", "THREE-"], "3.12", tmp_path)
    assert [path.name for path in wheels] == ["four-1.whl", "one-1.whl", "two-1.whl"]
    assert asked == [("one", "", "3.12"), ("two", ">=1", "3.12"), ("four", "", "3.12")]
