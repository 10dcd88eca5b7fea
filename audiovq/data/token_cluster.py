"""Coding a corpus on a cluster with Ray Data: each shard is a task, which codes its recordings and writes its file.

A worker that is killed costs the shard it was at, which another one does again; shards are written as a whole, so that
what it left does no harm. Plan, records and manifest are written by the process that asked.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from audiovq.data.places import Folder
from audiovq.data.token_files import CodesModel
from audiovq.data.token_plan import ShardPlan
from audiovq.data.token_writing import Coding, ShardTask, Tell, code_with, write_shard
from audiovq.errors import AudioVQError

#: Ray sends nothing home, and its own log stays in its folder.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


@dataclass(frozen=True)
class Cluster:
    """Where to code.

    Attributes:
        address: of Ray, such as ``auto`` or ``ray://host:10001``; None: a cluster of this machine, for this call.
        workers: processes that each hold the model; None: one for every ``threads`` CPUs, or for every GPU.
    """

    address: str | None = None
    workers: int | None = None

    def write(self, plan: ShardPlan, tasks: Sequence[ShardTask], coding: Coding, tell: Tell) -> tuple[float, int]:
        """Write the shards of ``tasks``; seconds and recordings coded.

        Raises:
            AudioVQError: when Ray is missing or cannot be reached, and when a worker cannot load the model or write.
        """
        return write_on_ray(plan, tasks, coding, self, tell)


class CodeShard:
    """A worker: holds the model, and codes and writes the shards that Ray hands it."""

    def __init__(self, coding: Coding, model: CodesModel, container: str, folder: str) -> None:
        self.coding, self.model, self.container, self.folder = coding, model, container, folder
        self.codec = coding.codec()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with a `ShardTask` -> a row with the shard's record and what was coded."""
        task: ShardTask = pickle.loads(row["task"])
        n_coded, n_bytes = 0, 0

        def counted() -> Iterator[Any]:
            nonlocal n_coded, n_bytes
            for one in task.coded(iter(code_with(self.codec, self.coding, task.known))):
                yield one
                n_coded, n_bytes = n_coded + bool(one.items), n_bytes + one.n_bytes

        record = write_shard(Folder(self.folder), row["file"], self.model, self.container, counted(), Tell())
        return {"index": task.index, "record": pickle.dumps(record), "n_coded": n_coded, "n_bytes": n_bytes}


def write_on_ray(
    plan: ShardPlan, tasks: Sequence[ShardTask], coding: Coding, cluster: Cluster, tell: Tell
) -> tuple[float, int]:
    """Write the shards of ``tasks`` on a cluster; seconds and recordings coded.

    Raises:
        AudioVQError: when Ray is missing or cannot be reached, and when a worker cannot load the model or write.
    """
    total, done, seconds, n_coded = sum(source.n_bytes for task in tasks for source in task.known), 0, 0.0, 0
    with _connected(cluster, coding) as ray:
        rows = [{"file": plan.file(task.index), "task": pickle.dumps(task)} for task in tasks]
        on_gpu = not coding.device.startswith("cpu")
        workers = min(cluster.workers or _capacity(ray, coding, on_gpu), len(tasks))
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            CodeShard,
            fn_constructor_args=(coding, plan.model, plan.container, plan.folder.url),
            concurrency=workers,
            num_cpus=coding.threads,
            num_gpus=1 if on_gpu else 0,
        )
        with _one_line():
            for row in dataset.iter_rows():
                record = pickle.loads(row["record"])
                plan.finish(int(row["index"]), record)
                for id, reason in record["faults"]:
                    tell.fault(id, reason)
                for id, text in record["remarks"]:
                    tell.remark(id, text)
                seconds, n_coded, done = seconds + record["seconds"], n_coded + row["n_coded"], done + row["n_bytes"]
                tell.progress(done, total)
                tell.shard(record["file"], record["items"], record["seconds"])
    return seconds, n_coded


def _capacity(ray: Any, coding: Coding, on_gpu: bool) -> int:
    """Workers that the cluster has room for."""
    resources = ray.cluster_resources()
    room = resources.get("GPU", 0) if on_gpu else resources.get("CPU", 0) / coding.threads
    if room < 1:
        raise AudioVQError(f"no machine of the cluster has {'a GPU' if on_gpu else 'enough CPUs'} for a worker")
    return int(room)


@contextmanager
def _connected(cluster: Cluster, coding: Coding) -> Iterator[Any]:
    """Ray, connected; what was started for this call is stopped behind it."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise AudioVQError("--engine ray needs the package ray: pip install 'audiovq[ray]'") from None
    started = not ray.is_initialized()
    if started:
        settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if cluster.address is None:
            n_cpus = max((cluster.workers or 0) * coding.threads, os.cpu_count() or 1)
            settings |= {"address": "local", "num_cpus": n_cpus, "include_dashboard": False}
            settings |= {"object_store_memory": 256 << 20}  # codes do not go through it
        else:
            settings["address"] = cluster.address
        try:
            ray.init(**settings)
        except Exception as error:
            where = cluster.address or "this machine"
            raise AudioVQError(f"Ray on {where}: {' '.join(str(error).split())[:200]}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()


@contextmanager
def _one_line() -> Iterator[None]:
    """What went wrong in a worker as one line."""
    try:
        yield
    except AudioVQError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, AudioVQError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise AudioVQError(str(cause)) from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        known = [line for line in lines if "AudioVQError: " in line]
        text = known[-1].split("AudioVQError: ", 1)[1] if known else (lines or [type(error).__name__])[-1]
        raise AudioVQError(f"a worker failed: {text[:300]}; finished shards are kept; run the command again") from error
