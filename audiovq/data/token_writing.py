"""A corpus as shards of codes: coded in one or several processes, written shard by shard, continued after a stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from audiovq.data.places import Folder
from audiovq.data.token_files import CodesModel, create_shard
from audiovq.data.token_plan import SHARD_ITEMS, ShardPlan, alone, clear
from audiovq.data.token_sources import Coded, StoppedError, TokenSource, code_source
from audiovq.errors import AudioVQError
from audiovq.io import file_sha256, shown

_AHEAD = 32
"""Results for each process that may wait while a long recording before them is coded."""


@dataclass(frozen=True)
class Coding:
    """How recordings are coded; goes to every process.

    Attributes:
        model: a model's name or folder.
        n_codebooks: to keep.
        mono: mix channels.
        threads: of one process.
        device: where the model runs, as torch names it.
        load: gives the codec for ``model``; None: `SpeechCodec.from_pretrained`.
    """

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
        raise AudioVQError(
            "a process was killed, perhaps for lack of memory; finished shards are kept; run the command again "
            "with fewer --workers"
        ) from error


def code_with(codec: Any, coding: Coding, sources: Iterable[TokenSource]) -> Iterator[Coded]:
    """As `code_all` in this process, with a model that is loaded."""
    if coding.device == "cpu":
        for source in sources:
            yield _code_one(codec, coding, source, lambda: False)
    else:
        from audiovq.data.token_plan import code_batches

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
        return Coded(
            source.id, source.n_bytes, [], f"internal error: {type(error).__name__}: {' '.join(str(error).split())}"
        )


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
class Tokenized:
    """What a call came to.

    Attributes:
        seconds: of audio that this call coded.
        n_coded: recordings that this call coded.
        manifest: of the whole folder; its ``faults`` are those of earlier calls, too.
    """

    seconds: float
    n_coded: int
    manifest: dict[str, Any]


@dataclass(frozen=True)
class ShardTask:
    """A shard that is to be written.

    Attributes:
        index: its number.
        sources: by their ids; None for recordings that are gone.
    """

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


class ShardWriter(Protocol):
    """Another place to code than processes of this machine, such as `audiovq.data.token_cluster.Cluster`."""

    def write(self, plan: ShardPlan, tasks: Sequence[ShardTask], coding: Coding, tell: Tell) -> tuple[float, int]:
        """Write the shards of ``tasks``; seconds and recordings coded."""


def write_tokens(
    sources: Sequence[TokenSource],
    folder: str | Path,
    model: CodesModel,
    coding: Coding,
    container: str = "tar",
    workers: int = 1,
    shard_items: int = SHARD_ITEMS,
    anew: bool = False,
    tell: Tell | None = None,
    cluster: ShardWriter | None = None,
) -> Tokenized:
    """Code recordings into the shards of a folder, or go on with it. The files do not depend on ``workers``.

    Memory holds the codes of the recordings at hand, 100 bytes a second for each codebook, and blocks of audio.

    Args:
        sources: from `list_sources`.
        folder: for the shards, a path or a URL; one that was begun keeps its settings, and recordings it knows stay as
            they are.
        model: whose codes are written.
        coding: how; ``coding.model`` is that model.
        container: "tar" or "parquet".
        workers: processes.
        shard_items: recordings in a shard.
        anew: throw away what the folder holds of an earlier call.
        tell: is told how it goes.
        cluster: to code on, instead of on processes of this machine.

    Raises:
        AudioVQError: for a folder of other settings or in use, and one that cannot be written. Recordings that cannot
            be coded raise nothing: they are in the manifest.
    """
    place, tell = Folder(folder), tell or Tell()
    with alone(place):
        clear(place, anew)
        plan = ShardPlan(place, model, container, coding.mono)
        plan.extend(sources, shard_items)
        tasks = _missing(plan, sources)
        if cluster is not None and tasks:
            seconds, n_coded = cluster.write(plan, tasks, coding, tell)
            clear(place, False)  # a worker that was killed leaves its unfinished file
        else:
            seconds, n_coded = _write_here(plan, tasks, coding, workers, tell)
        return Tokenized(seconds, n_coded, plan.write_manifest())


def _missing(plan: ShardPlan, sources: Sequence[TokenSource]) -> list[ShardTask]:
    """The shards that are not finished."""
    by_id = {source.id: source for source in sources}
    missing = [index for index in range(len(plan.shards)) if plan.record(index) is None]
    return [ShardTask(index, [(id, by_id.get(id)) for id in plan.shards[index]]) for index in missing]


def _write_here(
    plan: ShardPlan, tasks: Sequence[ShardTask], coding: Coding, workers: int, tell: Tell
) -> tuple[float, int]:
    """Write shards with processes of this machine; seconds and recordings coded."""
    known = [source for task in tasks for source in task.known]
    total, done, seconds, n_coded = sum(source.n_bytes for source in known), 0, 0.0, 0
    # One stream of recordings through all shards, so that no process waits at a shard's end.
    stream = code_all(known, coding, workers) if known else iter(())

    def counted(task: ShardTask) -> Iterator[Coded]:
        nonlocal done, seconds, n_coded
        for one in task.coded(stream):
            yield one
            seconds, n_coded = seconds + sum(item.seconds for item in one.items), n_coded + bool(one.items)
            done += one.n_bytes
            tell.progress(done, total)

    try:
        for task in tasks:
            record = write_shard(plan.folder, plan.file(task.index), plan.model, plan.container, counted(task), tell)
            plan.finish(task.index, record)
            tell.shard(record["file"], record["items"], record["seconds"])
    finally:
        if hasattr(stream, "close"):
            stream.close()
    return seconds, n_coded


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
            _add(shard, one, record, tell)
        shard.close()
        record |= {"bytes": temporary.stat().st_size, "sha256": file_sha256(temporary)}
    if not record["items"]:
        folder.remove(name)
    return record


def _add(shard: Any, coded: Coded, record: dict[str, Any], tell: Tell) -> None:
    if coded.fault is not None:
        record["faults"].append([coded.id, coded.fault])
        tell.fault(coded.id, coded.fault)
    for remark in coded.remarks:
        record["remarks"].append([coded.id, remark])
        tell.remark(coded.id, remark)
    for item in coded.items:
        shard.add(item)
        record["items"] += 1
        record["frames"] += item.n_frames
        record["seconds"] += item.seconds
