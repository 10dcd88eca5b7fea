"""The training loop on a toy: schedules, exact resuming, broken checkpoints, signals, several processes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audiovq.errors import AudioVQError
from audiovq.training import run as run_module
from audiovq.training.batches import average_gradients
from audiovq.training.run import Run
from tests.training.runs import differences, state_of, step_of, unplugged_at
from tests.training.toy import SIGINT, SIGTERM, OtherTask, Toy, ToyTask

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"learning_rate": 1e-2, "seed": 1, "batch_size": 4, "validation_items": 8, "device": "cpu"}


def make_task(kind=ToyTask, **changes):
    torch.manual_seed(0)
    return kind(**{**SETTINGS, **changes})


def make_run(folder, **changes):
    every = {"validate_every": 4, "checkpoint_every": 4, "log_every": 2}
    return Run(folder, 1, **{"max_steps": 10, "warmup_steps": 3, "decay": 0.3, **every, **changes})


def fit(folder, task=None, **changes):
    task, run = task or make_task(noise=0.1), make_run(folder, **changes)
    run.resume(task)
    run.fit(task)
    return run


def test_schedule_rises_stays_and_falls_to_zero():
    run, rates = Run(Path(), 0, max_steps=100, warmup_steps=10, decay=0.2), []
    for run.step in range(101):
        rates.append(run.place().rate)
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[50] == pytest.approx(rates[80]) == 1
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0


def test_a_run_ends_after_steps_or_after_minutes(tmp_path):
    for wrong in ({"max_steps": None}, {"minutes": 1.0}):
        with pytest.raises(AudioVQError, match="give one of them"):
            make_run(tmp_path, **wrong)


def test_a_run_by_the_clock_ends_and_goes_on_by_the_clock(tmp_path, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(run_module.time, "perf_counter", lambda: float(next(ticks)))
    clock = {"max_steps": None, "minutes": 0.5, "validate_every": 10, "checkpoint_every": 10}
    with unplugged_at(ToyTask, 14):
        fit(tmp_path, **clock)
    run = fit(tmp_path, **clock)
    assert 30 <= run.seconds < 33
    assert run.seconds == json.loads((tmp_path / "state.json").read_text())["seconds"]
    assert run.place().rate == 0
    before = run.step
    assert fit(tmp_path, **clock).step == before  # all is done


def test_a_run_that_was_done_goes_on_to_more_steps(tmp_path):
    fit(tmp_path)
    before = state_of(tmp_path)
    done = step_of(tmp_path)
    for more in (6, 10):
        fit(tmp_path, max_steps=done + more)
        assert step_of(tmp_path) == done + more
        assert json.loads((tmp_path / "latest" / "training.json").read_text())["step"] == done + more
    after = state_of(tmp_path)
    assert any(not torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))


# -- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(workers, tmp_path):
    fit(tmp_path / "whole")
    with unplugged_at(ToyTask, 6):
        fit(tmp_path / "parts", make_task(noise=0.1, workers=workers))
    assert step_of(tmp_path / "parts") == 4
    fit(tmp_path / "parts", make_task(noise=0.1, workers=workers))
    assert differences(tmp_path / "whole", tmp_path / "parts") == []
    notes = [json.loads((tmp_path / run / "best" / "training.json").read_text()) for run in ("whole", "parts")]
    assert notes[0]["validation"] == notes[1]["validation"]


def test_an_interrupted_write_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    fit(tmp_path / "whole")

    def write_half(tensors, path, metadata):
        if metadata["step"] == "8":
            Path(path).write_bytes(b"half of it")
            raise OSError("no space left")
        save_file(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr("audiovq.training.states.save_file", write_half)
        with pytest.raises(OSError, match="no space left"):
            fit(tmp_path / "parts")
    assert step_of(tmp_path / "parts") == 4
    assert sorted(p.name for p in (tmp_path / "parts").glob("*state*")) == ["state.json", "state.safetensors"]
    fit(tmp_path / "parts")
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


def test_weights_and_step_are_of_the_same_moment(tmp_path):
    """A run that is killed between its two files goes on from the weights' step."""
    fit(tmp_path / "whole")
    with unplugged_at(ToyTask, 6):
        fit(tmp_path / "parts")
    earlier = (tmp_path / "parts" / "state.json").read_text()
    with unplugged_at(ToyTask, 9):
        fit(tmp_path / "parts")
    (tmp_path / "parts" / "state.json").write_text(earlier)
    fit(tmp_path / "parts")
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


def test_a_checkpoint_without_a_note_beside_its_weights_is_read(tmp_path):
    """As runs wrote it before: the step in state.json alone."""
    fit(tmp_path / "whole")
    with unplugged_at(ToyTask, 6):
        fit(tmp_path / "parts")
    path = tmp_path / "parts" / "state.safetensors"
    save_file(load_file(path), path, {"step": "4"})
    note = json.loads((tmp_path / "parts" / "state.json").read_text())
    del note["task"]
    (tmp_path / "parts" / "state.json").write_text(json.dumps(note))
    fit(tmp_path / "parts")
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


def test_what_cannot_be_resumed_is_one_clear_line(tmp_path):
    fit(tmp_path)
    with pytest.raises(AudioVQError, match="holds a run of ToyTask, not of OtherTask"):
        fit(tmp_path, make_task(OtherTask))
    wide = make_task()
    wide.model.encoder = torch.nn.Linear(7, 4)
    with pytest.raises(AudioVQError, match=r"another model.*encoder") as error:
        fit(tmp_path, wide)
    assert "\n" not in str(error.value)
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(AudioVQError, match="cannot resume") as error:
        fit(tmp_path)
    assert "\n" not in str(error.value)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    task = make_task()
    with torch.no_grad():
        task.model.decoder.bias.fill_(float("nan"))
        task.average.decoder.bias.fill_(float("nan"))
    with pytest.raises(AudioVQError, match="not finite"):
        fit(tmp_path, task)
    assert not (tmp_path / "latest").exists()


# -- gradients, curves ----------------------------------------------------------------------------------------------


def test_the_gradient_is_clipped_over_all_parameters_of_an_optimizer():
    task = make_task()
    parameters = [p for group in task.optimizers["model"].param_groups for p in group["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in task.model.parameters()}
    loss = 1000 * sum(p.sum() for p in parameters)
    norm = task.update("model", loss, 1.0, clip=1.0)
    assert float(norm) > 1000
    total = torch.stack([p.grad.norm() for p in parameters]).norm()
    assert float(total) == pytest.approx(1, abs=1e-3)


def test_one_process_leaves_its_gradients_alone():
    model = Toy()
    model.decoder(torch.ones(1, 4)).sum().backward()
    before = model.decoder.weight.grad.clone()
    average_gradients(list(model.parameters()))
    assert torch.equal(model.decoder.weight.grad, before)
    assert model.unused.weight.grad is None


def test_curves_and_previews_are_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    validation = events.Scalars("validation/loss")
    assert [event.step for event in validation] == [4, 8, 10]
    assert validation[-1].value == pytest.approx(
        json.loads((tmp_path / "latest" / "training.json").read_text())["validation"]["loss"], rel=1e-5
    )
    assert [event.step for event in events.Scalars("train/error")] == [2, 4, 6, 8, 10]
    assert [event.step for event in events.Audio("decoded/0")] == [4, 8, 10]


def test_without_tensorboard_a_run_has_no_curves(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    fit(tmp_path)
    assert step_of(tmp_path) == 10
    assert not (tmp_path / "tensorboard").exists()


# -- whole processes ------------------------------------------------------------------------------------------------

TRAIN_YAML = """
name: toy
run_dir: null
seed: 1
training:
  {{max_steps: 10, minutes: null, decay: 0.3, warmup_steps: 3, validate_every: 4, checkpoint_every: 4, log_every: 2,
  threads: 1, device: cpu, resume: true, init_from: null}}
task:
  _target_: tests.training.toy.ToyTask
  {settings}
"""


@pytest.fixture
def command(tmp_path):
    """``audiovq train`` of the toy in processes of its own."""
    pytest.importorskip("hydra")
    settings = "\n  ".join(f"{name}: {value}" for name, value in {**SETTINGS, "signals": "null", "noise": 0.0}.items())
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.yaml").write_text(TRAIN_YAML.format(settings=settings))

    def run(folder, *overrides, processes=1):
        start = [sys.executable, "-m"]
        if processes > 1:
            start += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
        arguments = ["train", "--config-dir", str(tmp_path / "configs"), f"run_dir={tmp_path / folder}", *overrides]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*start, "audiovq", *arguments],
            env=environment,
            preexec_fn=lambda: signal.signal(SIGINT, signal.SIG_DFL),  # in the background it is ignored
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.mark.parametrize(("number", "code"), [(SIGTERM, 143), (SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_resumes(number, code, command, tmp_path):
    whole = command("whole")
    assert whole.returncode == 0, whole.stderr
    stopped = command("parts", f"task.signals={{6: [0, {number}]}}")
    assert stopped.returncode == code
    assert "stopped at step 7; the same command resumes" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert step_of(tmp_path / "parts") == 7
    assert command("parts").returncode == 0
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


def test_two_processes_with_half_of_the_batch_train_as_one(command, tmp_path):
    # In bfloat16 a half of a batch is rounded otherwise than the whole.
    one = command("one", "+task.precision=float32")
    two = command("two", "+task.precision=float32", "task.batch_size=2", processes=2)
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    joint, halves = state_of(tmp_path / "one"), state_of(tmp_path / "two")
    assert set(joint) == set(halves)
    for name in joint:
        torch.testing.assert_close(halves[name], joint[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    notes = [json.loads((tmp_path / run / "latest" / "training.json").read_text()) for run in ("one", "two")]
    assert notes[0]["validation"]["loss"] == pytest.approx(notes[1]["validation"]["loss"], rel=1e-4)
    assert two.stdout.count("done:") == 1  # one process speaks


def test_a_signal_to_one_of_two_processes_stops_both_in_the_same_step(command, tmp_path):
    settings = ("task.batch_size=2", "task.noise=0.1")
    assert command("whole", *settings, processes=2).returncode == 0
    stopped = command("parts", *settings, f"task.signals={{6: [1, {SIGTERM}]}}", processes=2)
    assert stopped.returncode != 0
    assert step_of(tmp_path / "parts") == 7
    resumed = command("parts", *settings, processes=2)
    assert resumed.returncode == 0, resumed.stderr
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


LEAVES_THE_GROUP = """
import os
import torch
from audiovq.training.batches import average_gradients, process_group

with process_group(torch.device("cpu")):
    model = torch.nn.Linear(3, 3)
    model(torch.ones(3)).sum().backward()
    average_gradients(list(model.parameters()))
    torch.optim.AdamW(model.parameters()).step()
threads = [open(f"/proc/self/task/{thread}/comm").read() for thread in os.listdir("/proc/self/task")]
assert not any("gloo" in name for name in threads), threads
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="lists threads by /proc")
def test_no_thread_of_the_group_outlives_it(tmp_path):
    """One that frees a tensor while the interpreter ends would abort the process."""
    script = tmp_path / "script.py"
    script.write_text(LEAVES_THE_GROUP)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
