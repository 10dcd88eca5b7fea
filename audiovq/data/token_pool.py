"""Coding recordings in this process or in several, with results in the order of the recordings."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from audiovq.data.token_sources import Coded, StoppedError, TokenSource, code_source
from audiovq.errors import AudioVQError
from audiovq.io import shown

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
            raise AudioVQError(f"PyTorch sees no device {self.device} here; leave out --device") from None


def code_all(sources: Iterable[TokenSource], coding: Coding, workers: int = 1) -> Iterator[Coded]:
    """Code recordings in their order. One that cannot be coded says so in its result, and the others go on.

    Raises:
        AudioVQError: for a model that cannot be loaded, and for a process that was ended from outside.
    """
    if workers == 1:
        yield from code_with(coding.codec(), coding, sources)
        return
    if coding.device != "cpu":
        raise AudioVQError(f"one process codes on {coding.device}; leave out --workers, or use --engine ray")
    waiting: deque[Future[Coded]] = deque()
    with _pool(coding, workers) as pool:
        try:
            for source in sources:
                waiting.append(pool.submit(_work, source))
                if len(waiting) >= _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise AudioVQError(
                "a process was ended from outside, perhaps for want of memory; what is finished stays: call again "
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
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, _start, (coding, stop))
    try:
        yield pool
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
