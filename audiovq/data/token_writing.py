"""A corpus as shards of codes: written shard by shard, gone on with where it was stopped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from audiovq.data.token_files import CodesModel, create_shard
from audiovq.data.token_plan import SHARD_ITEMS, ShardPlan, alone, clear
from audiovq.data.token_pool import Coding, code_all
from audiovq.data.token_sources import Coded, TokenSource
from audiovq.errors import AudioVQError
from audiovq.io import atomic_write


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
) -> Tokenized:
    """Code recordings into the shards of a folder, or go on with it. The files do not depend on ``workers``.

    Memory holds the codes of the recordings at hand, 100 bytes a second for each codebook, and blocks of audio.

    Args:
        sources: from `list_sources`.
        folder: for the shards; one that was begun keeps its settings, and recordings it knows stay as they are.
        model: whose codes are written.
        coding: how; ``coding.model`` is that model.
        container: "tar" or "parquet".
        workers: processes.
        shard_items: recordings in a shard.
        anew: throw away what the folder holds of an earlier call.
        tell: is told how it goes.

    Raises:
        AudioVQError: for a folder of other settings or in use, and one that cannot be written. Recordings that cannot
            be coded raise nothing: they are in the manifest.
    """
    folder, tell = Path(folder), tell or Tell()
    with alone(folder):
        clear(folder, anew)
        plan = ShardPlan(folder, model, container, coding.mono)
        plan.extend(sources, shard_items)
        seconds, n_coded = _write_missing(plan, sources, coding, workers, tell)
        return Tokenized(seconds, n_coded, plan.write_manifest())


def _write_missing(
    plan: ShardPlan, sources: Sequence[TokenSource], coding: Coding, workers: int, tell: Tell
) -> tuple[float, int]:
    """Write the shards that are not finished; seconds and recordings coded."""
    by_id = {source.id: source for source in sources}
    missing = [index for index in range(len(plan.shards)) if plan.record(index) is None]
    wanted = [(index, id) for index in missing for id in plan.shards[index]]
    known = [by_id[id] for _, id in wanted if id in by_id]
    total, done, seconds, n_coded = sum(source.n_bytes for source in known), 0, 0.0, 0
    # One stream of recordings through all shards, so that no process waits at a shard's end.
    coded = code_all(known, coding, workers) if known else iter(())
    try:
        for index, group in groupby(wanted, key=lambda pair: pair[0]):
            record: dict[str, Any] = {"file": plan.file(index).name, "items": 0, "frames": 0, "seconds": 0.0}
            record |= {"faults": [], "remarks": []}
            with _writing(plan.file(index)) as temporary:
                shard = create_shard(temporary, plan.container, plan.model, f"{index:05d}-")
                for _, id in group:
                    one = next(coded) if id in by_id else Coded(id, 0, [], "no such file any more")
                    _add(shard, one, record, tell)
                    seconds, n_coded = seconds + sum(i.seconds for i in one.items), n_coded + bool(one.items)
                    done += one.n_bytes
                    tell.progress(done, total)
                shard.close()
                record |= {"bytes": temporary.stat().st_size, "sha256": _sha256(temporary)}
            if not record["items"]:
                plan.file(index).unlink()
            plan.finish(index, record)
            tell.shard(record["file"], record["items"], record["seconds"])
    finally:
        if hasattr(coded, "close"):
            coded.close()
    return seconds, n_coded


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        with atomic_write(path) as temporary:
            yield temporary
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise AudioVQError(f"{path}: cannot be written: {reason[:1].lower()}{reason[1:]}") from error


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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
