"""Token shards of a corpus: the plan of a folder, which is written shard by shard and continued after a stop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audiovq.data.places import Folder, locked, modified
from audiovq.data.token_coding import Cluster, Coding, ShardTask, Tell, code_all, write_shard
from audiovq.data.token_files import FORMAT, MANIFEST, PROGRESS, SUFFIXES, VERSION, CodesModel
from audiovq.data.token_sources import Coded, TokenSource
from audiovq.errors import AudioVQError
from audiovq.io import errors_about

#: A shard is closed after so many recordings, or so many bytes of them (nine hours of 16-bit speech at 16 kHz).
SHARD_ITEMS, SHARD_BYTES = 1000, 1 << 30


class ShardPlan:
    """The plan of a folder. It only grows: new recordings go into shards of their own behind the others.

    Raises:
        AudioVQError: when the folder was begun otherwise, or holds something else.
    """

    def __init__(self, folder: Folder, model: CodesModel, container: str, mono: bool) -> None:
        self.folder, self.model, self.container = folder, model, container
        self.shards: list[list[str]] = []
        # A model under another name gives the same codes.
        self._settings = {k: v for k, v in asdict(model).items() if k != "name"}
        self._settings |= {"format": container, "channels": "mixed" if mono else "each on its own"}
        self._name = f"{PROGRESS}/plan.json"
        try:
            known = json.loads(folder.read(self._name))
            self.shards, before = known["shards"], known["settings"]
        except FileNotFoundError:
            if folder.glob("shard-*"):
                raise AudioVQError(f"{folder.name} contains other shards: choose another folder") from None
            return
        except (ValueError, KeyError) as error:
            raise AudioVQError(f"{folder.at(self._name)} is damaged ({error}); use -f to start over") from None
        for name, value in self._settings.items():
            if before.get(name) != value:
                what = name.removeprefix("n_").replace("_", " ")
                raise AudioVQError(
                    f"{folder.name} was started with {what} {before.get(name)}, not {value}: choose another folder, or "
                    "use -f to start over"
                )

    def extend(self, sources: Sequence[TokenSource], shard_items: int) -> None:
        """Plan for what is not planned yet, or could not be coded and was changed since, and keep the plan."""
        known = {id for shard in self.shards for id in shard} - self._mended(sources)
        size, n_bytes, before = 0, 0, len(self.shards)
        for source in sources:
            if source.id in known:
                continue
            if not size or size >= shard_items or n_bytes >= SHARD_BYTES:
                self.shards.append([])
                size, n_bytes = 0, 0
            self.shards[-1].append(source.id)
            size, n_bytes = size + 1, n_bytes + source.n_bytes
        if len(self.shards) > before:
            _write_json(self.folder, self._name, {"settings": self._settings, "shards": self.shards})

    def _mended(self, sources: Sequence[TokenSource]) -> set[str]:
        """Recordings that could not be coded, and whose files are newer than the word of that."""
        places = {source.id: source.place for source in sources}
        mended = set()
        for index, faults in self._faults().items():
            when = modified(self.folder.at(self._record_name(index))) if faults else 0.0
            for id, _ in faults:
                place = places.get(id)
                if isinstance(place, str) and modified(place) > when:
                    mended.add(id)
        return mended

    def _faults(self) -> dict[int, list[list[str]]]:
        """By finished shard, (id, reason) of what could not be coded and is in no later shard."""
        last = {id: index for index, shard in enumerate(self.shards) for id in shard}
        records = ((index, self.record(index)) for index in range(len(self.shards)))
        return {i: [f for f in record["faults"] if last.get(f[0]) == i] for i, record in records if record is not None}

    def file(self, index: int) -> str:
        """Name of a shard in the folder."""
        return f"shard-{index:05d}{SUFFIXES[self.container]}"

    def _record_name(self, index: int) -> str:
        return f"{PROGRESS}/{index:05d}.json"

    def record(self, index: int) -> dict[str, Any] | None:
        """What is known of a shard when it is finished and still there."""
        try:
            found = json.loads(self.folder.read(self._record_name(index)))
            there = not found["items"] or self.folder.size(self.file(index)) == found["bytes"]
        except (OSError, ValueError, KeyError):
            return None
        return found if there else None

    def finish(self, index: int, record: dict[str, Any]) -> None:
        """Keep what is known of a finished shard."""
        _write_json(self.folder, self._record_name(index), record)

    def write_manifest(self) -> dict[str, Any]:
        """Write what readers begin with, and give it back. All shards are finished by then."""
        records = [record for index in range(len(self.shards)) if (record := self.record(index)) is not None]
        assert len(records) == len(self.shards)
        seconds, shards = 0.0, []
        for record in records:
            seconds += record["seconds"]
            if record["items"]:
                hours = round(record["seconds"] / 3600, 6)
                shards.append({name: record[name] for name in ("file", "items", "frames")} | {"hours": hours})
                shards[-1] |= {name: record[name] for name in ("bytes", "sha256")}
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "container": self.container,
            "channels": self._settings["channels"],
            "model": asdict(self.model),
            "items": sum(record["items"] for record in records),
            "frames": sum(record["frames"] for record in records),
            "hours": round(seconds / 3600, 6),
            "shards": shards,
            "faults": [{"id": id, "reason": reason} for faults in self._faults().values() for id, reason in faults],
            "remarks": [{"id": id, "remark": text} for record in records for id, text in record.get("remarks", [])],
        }
        _write_json(self.folder, MANIFEST, manifest)
        return manifest


def clear(folder: Folder, everything: bool) -> None:
    """Delete what a call that was killed has left, and with ``everything`` all shards with their manifest and plan."""
    patterns = [".shard-*", ".manifest-*", f"{PROGRESS}/.*"]
    if everything:
        patterns += ["shard-*.tar", "shard-*.parquet", MANIFEST, f"{PROGRESS}/*.json"]
    for pattern in patterns:
        for name in folder.glob(pattern):
            folder.remove(name)


@contextmanager
def alone(folder: Folder) -> Iterator[None]:
    """See that nobody else writes into the folder meanwhile, where the system can tell: not in remote stores.

    Raises:
        AudioVQError: when somebody does, or the folder cannot be written.
    """
    if folder.path is None:
        yield
        return
    lock = folder.path / PROGRESS / "lock"
    with errors_about(folder.name, "written"):
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    with locked(lock, f"{folder.name} is being written by another process: wait for it"):
        yield


def _write_json(folder: Folder, name: str, content: Any) -> None:
    with folder.writing(name) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Tokenized:
    """Seconds of audio and recordings that a call coded, and the manifest of the whole folder, with all its faults."""

    seconds: float
    n_coded: int
    manifest: dict[str, Any]


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
    cluster: Cluster | None = None,
) -> Tokenized:
    """Code recordings into the shards of a folder, or go on with it. The files do not depend on ``workers``.

    Memory holds the codes of the recordings at hand, 100 bytes a second for each codebook, and blocks of audio.

    Args:
        folder: a path or a URL; one that was begun keeps its settings, and recordings it knows stay as they are.
        model: whose codes are written; ``coding.model`` names it.
        container: "tar" or "parquet".
        workers: processes.
        shard_items: recordings in a shard.
        anew: throw away what the folder holds of an earlier call.
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
