"""Seconds of audio a second that a training step of the speech codec takes in, in all and by part.

    python benchmarks/training.py [--batch 12] [--steps 10] [--compile] [--waits] [--json] [KEY=VALUE ...]

On a GPU where there is one, with bfloat16, else on one CPU thread. The model is that of ``experiment=speech``, or
of ``--config``, the ``config.json`` of a run from a pack; the corpus is the packed one in the cache, or two minutes of
noise with ``--noise``. Parts are timed one after another with the device idle between them, so their sum is longer than
the whole step, whose parts overlap; medians over the steps.

    data        crops, conversions, degraded recordings
    forward     encoder, quantizer, decoder
    losses      spectra, envelopes, level
    listener    Whisper's states of decoded and original speech
    adversarial discriminators: their update, and the decoder's losses against them
    backward    gradients of the codec
    optimizer   clipping, AdamW, moving average
    step        all of it, as in training
    once        the first step, with all that is prepared or compiled in it

``--waits`` prints the places where the host waits for the GPU within a step. KEY=VALUE are settings of the task.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiovq.training.codec import CodecTask
from audiovq.training.offline import build, override
from audiovq.training.run import compose
from audiovq.training.task import Place, update_average

PLACE = Place(step=0, progress=0.9, rate=1e-3)  # with discriminators


def write_noise(folder: Path) -> None:
    """A packed corpus of noise by two speakers."""
    frames = 3000
    for split in ("train", "validation"):
        (folder / split).mkdir(parents=True)
        samples = np.random.default_rng(0).normal(0, 2000, 2 * frames * 320).astype("<i2")
        samples.tofile(folder / split / "samples.i16")
        lines = [
            {"id": str(i), "speaker": f"noise/{i}", "language": "en", "group": None}
            | {"start": i * frames * 320, "n_samples": frames * 320}
            for i in range(2)
        ]
        (folder / split / "index.json").write_text(json.dumps(lines))


def task_of(arguments: argparse.Namespace, corpus: Path | None) -> CodecTask:
    """The task, its codebooks started."""
    cuda = torch.cuda.is_available()
    if arguments.config:
        config = json.loads(arguments.config.read_text())
    else:
        from omegaconf import OmegaConf

        config = OmegaConf.to_container(compose(["experiment=speech", "training.init_from=null"]))
    settings = config["task"] | {"batch_size": arguments.batch, "compile": arguments.compile}
    settings |= {"device": "cuda" if cuda else "cpu", "precision": "bfloat16" if cuda else "float32"}
    settings["corpus"] = str(corpus) if corpus else None
    override(settings, arguments.settings)
    if cuda:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    else:
        torch.set_num_threads(1)
    torch.manual_seed(0)
    task = build(settings)
    for quantizer in (task.model.quantizer.content, *task.model.quantizer.detail.levels):
        quantizer.codebook.initialised.fill_(True)
    return task


def parts_of(task: CodecTask, step: int) -> dict[str, float]:
    """Seconds of each part of one step."""
    took: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        wait(task)
        begun = time.perf_counter()
        result = work()
        wait(task)
        took[name] = time.perf_counter() - begun
        return result

    def forward() -> Any:
        with task.autocast():
            return task.code(task.model, batch)

    def optimize() -> None:
        groups = task.optimizers["model"].param_groups
        torch.nn.utils.clip_grad_norm_([parameter for group in groups for parameter in group["params"]], task.clip)
        task.optimizers["model"].step()
        update_average(task.average, task.model, step, task.average_decay)

    task._training_mode()
    torch.manual_seed(step)
    task.optimizers["model"].zero_grad(set_to_none=True)
    for group in task.optimizers["model"].param_groups:
        group["lr"] = 0.0
    batch = timed("data", lambda: task.train_crops.draw(task.batch_size, np.random.default_rng(step)))
    coded = timed("forward", forward)
    listener, task.listener = task.listener, []
    terms = timed("losses", lambda: task.losses(coded, batch))
    task.listener = listener
    if listener:
        terms["listener"] = timed("listener", lambda: task.listener_loss(coded.waveform[:, 0].float(), batch.target))
    terms |= timed("adversarial", lambda: task.adversarial(batch.target[:, None], coded.waveform, 0.0))
    total = torch.stack([task.weights.get(name, 0.0) * term for name, term in terms.items()]).sum()
    timed("backward", total.backward)
    timed("optimizer", optimize)
    return took


def wait(task: CodecTask) -> None:
    """Until the device is idle."""
    if task.device.type == "cuda":
        torch.cuda.synchronize()


def measure(task: CodecTask, steps: int) -> dict[str, float]:
    """Median seconds of each part, and of a whole step while the host runs ahead."""
    begun = time.perf_counter()
    task.training_step(PLACE)
    wait(task)
    once = time.perf_counter() - begun
    taken = [parts_of(task, step) for step in range(steps + 2)][2:]
    medians = {name: statistics.median(one[name] for one in taken) for name in taken[0]}
    for step in range(3):
        task.training_step(Place(step, PLACE.progress, PLACE.rate))
    wait(task)
    begun = time.perf_counter()
    for step in range(steps):
        task.training_step(Place(3 + step, PLACE.progress, PLACE.rate))
    wait(task)
    return {**medians, "step": (time.perf_counter() - begun) / steps, "once": once}


def waits(task: CodecTask) -> list[str]:
    """Where the host waits for the device in one step."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task.training_step(PLACE)
    torch.cuda.set_sync_debug_mode("default")
    return sorted({f"{warning.filename}:{warning.lineno}" for warning in caught if "synchron" in str(warning.message)})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--waits", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--config", type=Path)
    parser.add_argument("settings", nargs="*")
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.noise:
            write_noise(Path(temporary) / "packed")
        task = task_of(arguments, Path(temporary) / "packed" if arguments.noise else None)
        taken = measure(task, arguments.steps)
    speeds = {name: task.audio_seconds / seconds for name, seconds in taken.items()}
    if arguments.json:
        print(json.dumps({"audio_seconds_a_step": task.audio_seconds, "seconds": taken, "speed": speeds}))
    else:
        print(f"{task.audio_seconds:.1f} s of audio a step on {task.device}")
        for name, seconds in taken.items():
            print(f"{name:12} {1000 * seconds:10.2f} ms {speeds[name]:10.1f} audio-s/s")
    if arguments.waits and task.device.type == "cuda":
        print("waits:", *waits(task), sep="\n  ")


if __name__ == "__main__":
    main()
