"""Work of tokenizing: plan of the shards, batches by length."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.data.places import Folder, modified
from audiovq.data.token_files import SUFFIXES, CodesModel
from audiovq.data.token_sources import Coded, TokenSource, make_items, open_source
from audiovq.errors import AudioVQError
from audiovq.io import errors_about
from audiovq.media.waveform import Resampler, n_resampled

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec


MANIFEST, PROGRESS = "manifest.json", ".progress"
FORMAT, VERSION = "audiovq-tokens", 2
#: A shard is closed after so many recordings, or so many bytes of them (nine hours of 16-bit speech at 16 kHz).
SHARD_ITEMS, SHARD_BYTES = 1000, 1 << 30


class ShardPlan:
    """The plan of a folder. It only grows: new recordings go into shards of their own behind the others.

    Args:
        folder: of the shards.
        model: whose codes they hold.
        container: "tar" or "parquet".
        mono: whether channels are mixed.

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
                raise AudioVQError(
                    f"{folder.name} was started with {name.replace('_', ' ')} {before.get(name)}, not {value}: choose "
                    "another folder, or use -f to start over"
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
        file = lock.open("w")
    with file:
        with suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AudioVQError(f"{folder.name} is being written by another process: wait for it") from None
            except OSError:  # some file systems cannot lock
                pass
        yield


def _write_json(folder: Folder, name: str, content: Any) -> None:
    with folder.writing(name) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


BATCH_SECONDS = 1200.0
"""Audio that is read before it is coded: 80 MB; a longer recording is a batch of its own."""


@dataclass
class Loaded:
    """A recording in memory.

    Attributes:
        source: which one.
        text: its transcript.
        audio: its reader, with what is known of it.
        channels: (T,) float32 at the codec's rate, each.
    """

    source: TokenSource
    text: str | None
    audio: Any
    channels: list[np.ndarray]


def load_source(source: TokenSource, sample_rate: int, mono: bool) -> Loaded:
    """Read a recording at ``sample_rate``.

    Raises:
        AudioVQError: for a recording that cannot be read.
    """
    with open_source(source) as (audio, text):
        n_channels = audio.count_channels(mono)
        resampler = Resampler(audio.sample_rate, sample_rate, n_channels)
        blocks = [resampler.push(block) for block in audio.blocks(mono)]
        blocks.append(resampler.finish(n_resampled(audio.n_read, audio.sample_rate, sample_rate)))
    return Loaded(source, text, audio, list(np.ascontiguousarray(np.concatenate(blocks).T)))


def code_batches(
    codec: SpeechCodec,
    sources: Iterable[TokenSource],
    n_codebooks: int,
    mono: bool,
    guarded: Callable[[TokenSource, Callable[[], Any]], Any],
    batch_seconds: float = BATCH_SECONDS,
) -> Iterator[Coded]:
    """Code recordings in their order, many at a time.

    Args:
        codec: the model, on its device.
        sources: what to code.
        n_codebooks: to keep.
        mono: mix all channels down to one first.
        guarded: calls a function for a source and gives its result, or a `Coded` with the fault that it raised.
        batch_seconds: audio of a batch.
    """
    waiting: list[Loaded | Coded] = []
    n_samples = 0
    for source in sources:
        waiting.append(guarded(source, lambda source=source: load_source(source, codec.sample_rate, mono)))  # type: ignore[misc]
        if isinstance(waiting[-1], Loaded):
            n_samples += sum(map(len, waiting[-1].channels))
        if n_samples >= batch_seconds * codec.sample_rate:
            yield from _code(codec, waiting, n_codebooks)
            waiting, n_samples = [], 0
    yield from _code(codec, waiting, n_codebooks)


def _code(codec: SpeechCodec, batch: list[Loaded | Coded], n_codebooks: int) -> Iterator[Coded]:
    from audiovq.codec.batches import encode_batch

    loaded = [one for one in batch if isinstance(one, Loaded)]
    channels = [channel for one in loaded for channel in one.channels]
    coded = iter(encode_batch(codec, channels, n_codebooks) if channels else ())
    for one in batch:
        if isinstance(one, Coded):
            yield one
            continue
        rows = [next(coded) for _ in one.channels]
        items = make_items(one.source, one.text, one.audio, rows, len(one.channels[0]))
        yield Coded(one.source.id, one.source.n_bytes, items, remarks=one.audio.remarks)
