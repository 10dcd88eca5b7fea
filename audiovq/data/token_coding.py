"""Coding recordings into shards, in processes of this machine or on a cluster with Ray Data.

On a cluster each shard is a task, which codes its recordings and writes its file. A worker that is killed costs the
shard it was at, which another one does again; shards are written as a whole, so that what it left does no harm. Plan,
records and manifest are written by the process that asked.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiovq.data.places import Folder
from audiovq.data.token_files import CodesModel, create_shard
from audiovq.data.token_sources import Coded, StoppedError, TokenSource, code_batches, code_source
from audiovq.errors import AudioVQError, need
from audiovq.io import file_sha256, shown

if TYPE_CHECKING:
    from audiovq.data.token_writing import ShardPlan

_AHEAD = 32
"""Results for each process that may wait while a long recording before them is coded."""


@dataclass(frozen=True)
class Coding:
    """How recordings are coded; goes to every process. ``load`` gives the codec in place of `SpeechCodec`."""

    model: str | None
    n_codebooks: int
    mono: bool = False
    threads: int = 1
    device: str = "cpu"
    load: Callable[[str | None], Any] | None = None

    def codec(self) -> Any:
        """The model, loaded."""
        import torch

        torch.set_num_threads(self.threads)
        if self.load is not None:
            return self.load(self.model)
        from audiovq.codec.codec import SpeechCodec

        codec = SpeechCodec.from_pretrained(self.model)
        if self.device == "cpu":
            return codec
        try:
            return codec.to(self.device)
        except (AssertionError, RuntimeError):  # a PyTorch without CUDA, or a machine without a GPU
            raise AudioVQError(f"PyTorch has no device {self.device}; omit --device") from None


def code_all(sources: Iterable[TokenSource], coding: Coding, workers: int = 1) -> Iterator[Coded]:
    """Code recordings in their order. One that cannot be coded says so in its result, and the others go on.

    Raises:
        AudioVQError: for a model that cannot be loaded, and for a process that was ended from outside.
    """
    if workers == 1:
        yield from code_with(coding.codec(), coding, sources)
        return
    if coding.device != "cpu":
        raise AudioVQError(f"only one process can use {coding.device}; omit --workers, or use --engine ray")
    waiting: deque[Future[Coded]] = deque()
    try:
        with _pool(coding, workers) as pool:
            for source in sources:
                waiting.append(pool.submit(_work, source))
                if len(waiting) >= _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except BrokenProcessPool as error:
        what = "a process was killed, perhaps for lack of memory"
        raise AudioVQError(f"{what}; finished shards are kept; run the command again with fewer --workers") from error


def code_with(codec: Any, coding: Coding, sources: Iterable[TokenSource]) -> Iterator[Coded]:
    """As `code_all` in this process, with a model that is loaded."""
    if coding.device == "cpu":
        for source in sources:
            yield _code_one(codec, coding, source, lambda: False)
    else:
        yield from code_batches(codec, sources, coding.n_codebooks, coding.mono, _guarded)


def _code_one(codec: Any, coding: Coding, source: TokenSource, stopping: Callable[[], bool]) -> Coded:
    return _guarded(source, lambda: code_source(codec, source, coding.n_codebooks, coding.mono, stopping))


def _guarded(source: TokenSource, work: Callable[[], Any]) -> Any:
    """The result of ``work``, or why the recording cannot be coded."""
    try:
        return work()
    except AudioVQError as error:
        fault = str(error)
        return Coded(source.id, source.n_bytes, [], fault.removeprefix(f"{shown(str(source.place))}: "))
    except StoppedError:
        raise
    except Exception as error:  # whatever is wrong with one recording must not stop a night's work on the others
        fault = f"internal error: {type(error).__name__}: {' '.join(str(error).split())}"
        return Coded(source.id, source.n_bytes, [], fault)


@contextmanager
def _pool(coding: Coding, workers: int) -> Iterator[ProcessPoolExecutor]:
    # Not forked: torch's threads do not survive it.
    context = multiprocessing.get_context("spawn")
    stop, others = context.Event(), set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, _start, (coding, stop))
    try:
        yield pool
    except BrokenProcessPool:
        # They ignore SIGTERM, and one may wait for a lock that the ended process held.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


_own: dict[str, Any] = {}
"""Of a process of the pool: its codec, how to code, and the event that ends it."""


def _start(coding: Coding, stop: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the first process says when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _own.update(codec=coding.codec(), coding=coding, stop=stop)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(source: TokenSource) -> Coded:
    return _code_one(_own["codec"], _own["coding"], source, _own["stop"].is_set)


@dataclass(frozen=True)
class ShardTask:
    """A shard that is to be written, by its number: ids with their recordings, None for those that are gone."""

    index: int
    sources: list[tuple[str, TokenSource | None]]

    @property
    def known(self) -> list[TokenSource]:
        """The recordings that are there."""
        return [source for _, source in self.sources if source is not None]

    def coded(self, stream: Iterator[Coded]) -> Iterator[Coded]:
        """The results for `known`, which come from ``stream``, among those that say of a recording that it is gone."""
        for id, source in self.sources:
            yield Coded(id, 0, [], "no such file any more") if source is None else next(stream)


class Tell:
    """Where news of the work go; the default is nowhere."""

    def fault(self, id: str, reason: str) -> None:
        """A recording cannot be coded."""

    def remark(self, id: str, text: str) -> None:
        """Something about a recording that is coded."""

    def shard(self, name: str, n_items: int, seconds: float) -> None:
        """A shard is finished."""

    def progress(self, done: int, total: int) -> None:
        """Bytes of recordings done and in all."""


def write_shard(
    folder: Folder, name: str, model: CodesModel, container: str, coded: Iterable[Coded], tell: Tell
) -> dict[str, Any]:
    """Write one shard of what is coded -> what is known of it, for `ShardPlan.finish`. Without items there is no file.

    Raises:
        AudioVQError: when it cannot be written.
    """
    record: dict[str, Any] = {"file": name, "items": 0, "frames": 0, "seconds": 0.0, "faults": [], "remarks": []}
    with folder.writing(name) as temporary:
        shard = create_shard(temporary, container, model, f"{Path(name).stem.removeprefix('shard-')}-")
        for one in coded:
            if one.fault is not None:
                record["faults"].append([one.id, one.fault])
                tell.fault(one.id, one.fault)
            for remark in one.remarks:
                record["remarks"].append([one.id, remark])
                tell.remark(one.id, remark)
            for item in one.items:
                shard.add(item)
                record["items"] += 1
                record["frames"] += item.n_frames
                record["seconds"] += item.seconds
        shard.close()
        record |= {"bytes": temporary.stat().st_size, "sha256": file_sha256(temporary)}
    if not record["items"]:
        folder.remove(name)
    return record


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
        """Write the shards of ``tasks`` on a cluster; seconds and recordings coded.

        Raises:
            AudioVQError: when Ray is missing or cannot be reached, and when a worker cannot load the model or write.
        """
        sizes = {task.index: sum(source.n_bytes for source in task.known) for task in tasks}
        done, seconds, n_coded = 0, 0.0, 0
        with _connected(self, coding) as ray:
            rows = [{"file": plan.file(task.index), "task": pickle.dumps(task)} for task in tasks]
            on_gpu = not coding.device.startswith("cpu")
            workers = min(self.workers or _capacity(ray, coding, on_gpu), len(tasks))
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                CodeShard,
                fn_constructor_args=(coding, plan.model, plan.container, plan.folder.url),
                concurrency=workers,
                num_cpus=coding.threads,
                num_gpus=1 if on_gpu else 0,
            )
            with _one_line():
                for row in dataset.iter_rows():
                    index, record = int(row["index"]), pickle.loads(row["record"])
                    plan.finish(index, record)
                    for id, reason in record["faults"]:
                        tell.fault(id, reason)
                    for id, text in record["remarks"]:
                        tell.remark(id, text)
                    seconds, n_coded, done = seconds + record["seconds"], n_coded + row["n_coded"], done + sizes[index]
                    tell.progress(done, sum(sizes.values()))
                    tell.shard(record["file"], record["items"], record["seconds"])
        return seconds, n_coded


class CodeShard:
    """A worker: holds the model, and codes and writes the shards that Ray hands it."""

    def __init__(self, coding: Coding, model: CodesModel, container: str, folder: str) -> None:
        self.coding, self.model, self.container, self.folder = coding, model, container, folder
        self.codec = coding.codec()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with a `ShardTask` -> a row with the shard's record and what was coded."""
        task: ShardTask = pickle.loads(row["task"])
        n_coded = 0

        def counted() -> Iterator[Coded]:
            nonlocal n_coded
            for one in task.coded(iter(code_with(self.codec, self.coding, task.known))):
                yield one
                n_coded += bool(one.items)

        record = write_shard(Folder(self.folder), row["file"], self.model, self.container, counted(), Tell())
        return {"index": task.index, "record": pickle.dumps(record), "n_coded": n_coded}


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
    ray: Any = need("ray", "--engine ray", "ray")
    need("ray.data", "--engine ray", "ray")
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
