"""A sitting of a training run from a pack: unpack, train by the clock, leave results for the next to go on from.

Nothing here needs hydra or a network: `audiovq.training.packing` resolved the configuration already.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from audiovq.data.pieces import PieceReader, unpack_corpus
from audiovq.errors import AudioVQError
from audiovq.io import atomic_write
from audiovq.training.batches import Stopped
from audiovq.training.run import Run, run_settings
from audiovq.training.states import CONFIG, Limits, encode_state, load_state, read_set, state_of, write_set
from audiovq.training.task import Place, Task

log = logging.getLogger("audiovq")
START = "start/"
"""Prefix of a pack's entries with the state that training starts from."""


class Sitting(Run):
    """A run, or a part of one, that ends by the clock and writes its results as sets of small files.

    Args:
        work: folder for exported models and other files that stay on this machine.
        out: folder of the results.
        start: folder with a state to go on from; results in ``out`` come first.
        limits: on the results.
        ends: time of ``time.perf_counter()`` by which everything is written.
        save_every: seconds.
        settings: further arguments of `Run`. With neither ``max_steps`` nor ``minutes`` the sitting is the whole run:
            learning rates fall to zero at its end.
    """

    def __init__(
        self, work: Path, out: Path, start: Path | None, limits: Limits, ends: float, save_every: float, **settings: Any
    ) -> None:
        self.whole = settings["max_steps"] is None and settings["minutes"] is None
        if self.whole:
            settings["minutes"] = 1.0  # decides nothing: `place` goes by the clock of the sitting
        super().__init__(work, **settings)
        self.out, self.start, self.limits, self.ends, self.save_every = out, start, limits, ends, save_every
        self.began, self.took = time.perf_counter(), {"save": 0.0, "validate": 0.0}
        self.margin = min(2.0, 0.05 * (ends - self.began))
        self._plan_end()

    def place(self) -> Place:
        """Where the run is now; a sitting that is the whole run goes by its clock."""
        if not self.whole:
            return super().place()
        assert self.deadline is not None
        self.minutes = max(self.deadline - self.began, 1e-3) / 60
        kept, self.seconds = self.seconds, time.perf_counter() - self.began
        place = super().place()
        self.seconds = kept
        return place

    def fit(self, task: Task) -> None:
        """Go on from the results or the start, and write a first set, so that a set exists whatever happens."""
        for folder in (self.out, self.start):
            if folder is not None and any(folder.glob("state-*.json")):
                tensors, facts = read_set(folder)
                load_state(task, tensors)
                self.step, self.seconds, self.best = facts["step"], facts["seconds"], facts["best"]
                log.info("going on from %s at step %d", folder, self.step)
                break
        self.save(task)
        self.began = time.perf_counter()
        super().fit(task)

    def ended(self) -> bool:
        """As in `Run`, with the end planned anew."""
        self._plan_end()
        return super().ended()

    def validate(self, task: Task) -> None:
        """As in `Run`, timed; left out at the end where it has not been timed before, since it may take too long."""
        begun = time.perf_counter()
        assert self.deadline is not None
        if begun > self.deadline and not self.took["validate"]:
            log.info("no time for a validation: lower training.validate_every to have them on the way")
            return
        super().validate(task)
        self.took["validate"] = time.perf_counter() - begun

    def save(self, task: Task) -> None:
        """Replace the results.

        Raises:
            AudioVQError: when weights are not finite; the results before stay.
        """
        begun = time.perf_counter()
        if not all(bool(torch.isfinite(parameter).all()) for parameter in task.parameters()):
            raise AudioVQError(f"weights are not finite at step {self.step}: lower the learning rate")
        with torch.no_grad():
            data = encode_state(state_of(task), self.limits)
        files = write_set(self.out, data, self.facts(task), self.limits)
        self.took["save"] = time.perf_counter() - begun
        log.info("step %d: %d files, %.1f MiB, %.1f s", self.step, len(files), len(data) / 2**20, self.took["save"])

    def _plan_end(self) -> None:
        """Stop training so early that a validation and a save, as long as the last ones, are done in time."""
        self.deadline = self.ends - 1.5 * sum(self.took.values()) - self.margin

    def _mark(self, name: str) -> int:
        if name == "checkpoint":
            return int((time.perf_counter() - self.began) // self.save_every)
        return super()._mark(name)


def build(config: Mapping[str, Any]) -> Any:
    """Call a configuration's ``_target_`` with the rest of it."""
    module, _, name = config["_target_"].rpartition(".")
    return getattr(import_module(module), name)(**{k: v for k, v in config.items() if not k.startswith("_")})


def override(config: dict[str, Any], settings: Sequence[str]) -> None:
    """Set ``a.b.c=VALUE`` in a configuration, in place; values are JSON, or else strings.

    Raises:
        AudioVQError: for a key that is not there.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        *path, last = key.split(".")
        place = config
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None  # type: ignore[assignment]
        if not equals or not isinstance(place, dict) or last not in place:
            raise AudioVQError(f"{setting}: the configuration has no such setting")
        try:
            place[last] = json.loads(text)
        except ValueError:
            place[last] = text


def train_from_pack(
    pack: Path,
    out: Path,
    minutes: float,
    work: Path | None = None,
    settings: Sequence[str] = (),
    limits: Limits | None = None,
    save_every: float = 60.0,
    begun: float | None = None,
) -> None:
    """Train for so many minutes, unpacking and writing included.

    Args:
        out: gets the state and ``train.log``; a state that is there already is gone on from.
        work: folder for what is unpacked; None: ``unpacked`` in the pack.
        settings: ``key=value`` changes of the configuration.
        limits, save_every: see `Sitting`.
        begun: ``time.time()`` when the process started, from which minutes count; None: now.

    Raises:
        AudioVQError: when pieces are missing or damaged, or a setting does not exist.
    """
    ends = time.perf_counter() + 60 * minutes - (time.time() - begun if begun else 0.0)
    out.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(out / "train.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        reader, work = PieceReader(pack), (work or pack / "unpacked").resolve()
        os.environ["AUDIOVQ_CACHE"] = str(work / "cache")
        config = json.loads(reader.read(CONFIG))
        _adapt(config, settings)
        start = _unpack(reader, work)
        task = _make_task(config)
        run = Sitting(
            work / "run",
            out,
            start,
            limits or Limits(),
            ends,
            save_every,
            seed=config["seed"],
            **run_settings(config["training"]),
        )
        if start is None and config["training"].get("init_from"):
            task.begin_from(config["training"]["init_from"])
        if isinstance(config.get("model"), dict):  # with what the task adds, such as the speakers of the corpus
            config["model"] = task.average.config
        with atomic_write(out / CONFIG) as path:
            path.write_text(json.dumps(config) + "\n")
        run.fit(task)
        log.info("done: step %d, %.0f s before the end", run.step, ends - time.perf_counter())
    except Exception as error:
        log.info("stopped: %s", error)
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


def _adapt(config: dict[str, Any], settings: Sequence[str]) -> None:
    """Fit a configuration to this machine and to ``settings``, in place, before anything takes time."""
    cuda = torch.cuda.is_available()
    for key, value in (("device", "cuda" if cuda else "cpu"), ("precision", "bfloat16" if cuda else "float32")):
        if key in config["task"]:
            config["task"][key] = value
    override(config, settings)
    check_end(config["training"])


def check_end(plan: Mapping[str, Any]) -> None:
    """Check when training ends: by steps, by minutes, or with the sitting.

    Raises:
        AudioVQError: when steps and minutes are given.
    """
    if plan["max_steps"] is not None and plan["minutes"] is not None:
        raise AudioVQError(
            "give training.max_steps or training.minutes, or null for both: the sitting is the whole run"
        )


def _unpack(reader: PieceReader, work: Path) -> Path | None:
    """Corpora, codes and models; the folder of the state to start from."""
    begun = time.perf_counter()
    reader.extract("cache/", work / "cache")
    for split in ("train", "validation") if reader.names("packed/") else ():
        unpack_corpus(reader, split, work / "cache" / "packed" / split)
    log.info("unpacked in %.1f s", time.perf_counter() - begun)
    if not reader.names(START):
        return None
    reader.extract(START, work / "start")
    return work / "start"


def _make_task(config: Mapping[str, Any]) -> Any:
    cuda = torch.cuda.is_available()
    torch.set_num_threads(config["training"]["threads"])
    if cuda:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    torch.manual_seed(config["seed"])
    log.info("%s on %s", config["name"], torch.cuda.get_device_name() if cuda else "CPU")
    return build(config["task"])


def main(arguments: Sequence[str] | None = None, begun: float | None = None) -> int:
    """The command line of ``run.py`` in a pack. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="run.py", description="Train from a pack; no network, nothing to install.")
    parser.add_argument("pack", type=Path)
    parser.add_argument("--minutes", type=float, required=True, help="Of the whole command, from its start.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the results.")
    parser.add_argument("--work", type=Path, help="Folder for what is unpacked; default: unpacked, in the pack.")
    parser.add_argument("--save-every", type=float, default=60.0, help="Seconds between two states.")
    parser.add_argument("--file-mib", type=float, default=15.0, help="Largest file of the results.")
    parser.add_argument("--total-mib", type=float, default=62.0, help="Size of the results in all.")
    parser.add_argument("settings", nargs="*", help="Changes of the configuration: key=value.")
    given = parser.parse_intermixed_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    limits = Limits(int(given.file_mib * 2**20), int(given.total_mib * 2**20))
    where = (given.pack, given.out, given.minutes, given.work)
    try:
        train_from_pack(*where, given.settings, limits, given.save_every, begun)
    except AudioVQError as error:
        print("audiovq:", error, file=sys.stderr)
        return 1
    except Stopped as stop:
        return 128 + stop.number
    return 0
