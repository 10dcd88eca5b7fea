"""Coded speech for training: token shards as data sets, and stretches of a coded corpus."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from audiovq.data.token_files import (
    FORMAT,
    MANIFEST,
    PROGRESS,
    VERSION,
    CodesModel,
    TokenizedUtterance,
    lay_out,
    read_shard,
    vocabulary,
)
from audiovq.data.utterance import SPLITS, CodedUtterance
from audiovq.errors import AudioVQError
from audiovq.interfaces import Codec
from audiovq.io import file_sha256


class TokenShards:
    """The items of a folder of shards, read one after the other; nothing of them stays in memory.

    Args:
        folder: with a ``manifest.json``.
        model: a codec, or the hash of its codes (bytes or hexadecimal), which the shards must be of; None: any.

    Raises:
        AudioVQError: when there are no shards or they are not complete, and for shards of another model.
    """

    def __init__(self, folder: str | Path, model: Codec | bytes | str | None = None) -> None:
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = _read_manifest(self.folder)
        self.container: str = self.manifest["container"]
        self.model = CodesModel(**self.manifest["model"])
        self.files = [self.folder / shard["file"] for shard in self.manifest["shards"]]
        if model is not None:
            self._expect(model)
        for path, shard in zip(self.files, self.manifest["shards"], strict=True):
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                state = "does not have the size given in the manifest" if path.is_file() else "is missing"
                raise AudioVQError(f"{path} {state}: run audiovq tokenize again")

    def _expect(self, model: Codec | bytes | str) -> None:
        wanted = model.model_hash if isinstance(model, Codec) else model
        wanted = wanted if isinstance(wanted, str) else wanted.hex()
        if wanted != self.model.codes_hash:
            name = f"{model.name} ({wanted})" if isinstance(model, Codec) else wanted
            raise AudioVQError(
                f"{self.folder} contains codes of model {self.model.name} ({self.model.codes_hash}), not of {name}: "
                "tokenize the recordings with that model, or name the model of the shards"
            )

    def __len__(self) -> int:
        return int(self.manifest["items"])

    def __iter__(self) -> Iterator[TokenizedUtterance]:
        for index in range(len(self.files)):
            yield from self.read(index)

    def read(self, index: int) -> Iterator[TokenizedUtterance]:
        """The items of shard ``index``; `AudioVQError` when it is damaged, or of another model than the manifest."""
        yield from read_shard(self.files[index], self.container, self.model.codes_hash)

    def verify(self) -> None:
        """Read every byte; `AudioVQError` for the first shard whose bytes are not those that were written."""
        for path, shard in zip(self.files, self.manifest["shards"], strict=True):
            if file_sha256(path) != shard["sha256"]:
                raise AudioVQError(f"{path} is damaged: delete it and run audiovq tokenize again")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (folder / PROGRESS).is_dir():
            raise AudioVQError(f"the shards in {folder} are incomplete: run audiovq tokenize again") from None
        raise AudioVQError(f"no shards of codes in {folder}: create them with audiovq tokenize") from None
    except (OSError, ValueError) as error:
        raise AudioVQError(f"{path} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise AudioVQError(f"{path} is not a manifest of audiovq tokenize")
    if manifest["version"] != VERSION:
        raise AudioVQError(
            f"{path} has version {manifest['version']}, this release reads {VERSION}: run audiovq tokenize again"
        )
    return manifest


class TokenDataset(IterableDataset[dict[str, Any]]):
    """Every item once an epoch, for a `DataLoader` with any number of workers on any number of ranks.

    Items: ``codes``, int64 in the layout asked for ((K, F) by default), ``pitch (F,)``, ``level (P,)`` and
    ``voice (S,)`` int64, and ``id``, ``channel``, ``speaker``, ``language``, ``text`` ("" where there is none),
    ``split``, ``seconds``, ``n_samples``. Lengths differ: give the `DataLoader` ``batch_size=None`` or a
    ``collate_fn``.

    Whole shards are shared out when there are enough for all workers of all ranks, and single items otherwise. Each
    order is decided by ``(seed, epoch)``; call `set_epoch` before each epoch.

    Args:
        folder, model: see `TokenShards`.
        split: only items of this split; None: all.
        n_codebooks: only the first so many.
        layout: see `audiovq.data.token_files`; ``vocabulary`` is then the number of different tokens.
        shuffle: items of a buffer from which the next one is drawn at random, and shards in random order; 0: in order.
        rank, world_size: which share of how many; from ``torch.distributed`` when it runs, else all.

    Raises:
        AudioVQError: see `TokenShards`; for a layout or a number of books that there is not.
    """

    def __init__(
        self,
        folder: str | Path,
        model: Any = None,
        split: str | None = None,
        n_codebooks: int | None = None,
        layout: str = "codes",
        shuffle: int = 0,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.shards = TokenShards(folder, model)
        kept = self.shards.model.n_codebooks
        self.n_codebooks = kept if n_codebooks is None else n_codebooks
        if not 1 <= self.n_codebooks <= kept:
            raise AudioVQError(f"{folder} has {kept} codebooks, not {n_codebooks}")
        if split is not None and split not in SPLITS:
            raise AudioVQError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
        self.split, self.layout, self.shuffle, self.seed, self.epoch = split, layout, shuffle, seed, 0
        self.vocabulary = vocabulary(layout, self.n_codebooks, self.shards.model.codebook_size)
        self._place = rank, world_size

    def set_epoch(self, epoch: int) -> None:
        """Another order from here on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        share, shares = self._share()
        items = self._items(share, shares)
        if self.shuffle > 1:
            items = _shuffled(items, self.shuffle, np.random.default_rng((self.seed, self.epoch, share)))
        return map(self._finish, items)

    def _share(self) -> tuple[int, int]:
        """Which of how many shares is this process's."""
        rank, world_size = self._place
        running = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = (torch.distributed.get_rank() if running else 0) if rank is None else rank
        world_size = (torch.distributed.get_world_size() if running else 1) if world_size is None else world_size
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        return rank * workers + number, world_size * workers

    def _items(self, share: int, shares: int) -> Iterator[TokenizedUtterance]:
        order = np.arange(len(self.shards.files))
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(order)
        by_shard = len(order) >= shares
        number = 0
        for index in order[share::shares] if by_shard else order:
            for item in self.shards.read(int(index)):
                number += 1
                if (by_shard or number % shares == share) and (self.split is None or item.split == self.split):
                    yield item

    def _finish(self, item: TokenizedUtterance) -> dict[str, Any]:
        names = ("id", "channel", "speaker", "language", "split", "seconds", "n_samples")
        codes = lay_out(item.codes[: self.n_codebooks], self.layout, self.shards.model.codebook_size)
        arrays = {"codes": codes, "pitch": item.pitch, "level": item.levels, "voice": item.voice}
        tensors = {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
        return {**tensors, **{name: getattr(item, name) for name in names}, "text": item.text or ""}


def _shuffled(items: Iterator[TokenizedUtterance], size: int, rng: np.random.Generator) -> Iterator[TokenizedUtterance]:
    """Drawn at random from the next ``size``."""
    buffer: list[TokenizedUtterance] = []
    for item in items:
        if len(buffer) < size:
            buffer.append(item)
            continue
        place = int(rng.integers(size))
        buffer[place], item = item, buffer[place]
        yield item
    rng.shuffle(buffer)  # type: ignore[arg-type]
    yield from buffer


class CodeTape:
    """All of a speaker's coded utterances end to end, in a ring: ``streams`` (S, F) uint16, pitch, then codebooks."""

    def __init__(self, utterances: Sequence[CodedUtterance]) -> None:
        self.utterances = list(utterances)
        self.streams = np.concatenate([streams_of(u) for u in utterances], axis=1)
        self.starts = np.cumsum([0, *(u.n_frames for u in utterances[:-1])])

    @property
    def codes(self) -> np.ndarray:
        return self.streams[1:]

    @property
    def pitch(self) -> np.ndarray:
        return self.streams[0]

    @property
    def n_frames(self) -> int:
        return self.streams.shape[1]

    def read(self, start: int, n_frames: int) -> np.ndarray:
        """Streams (S, n_frames) int64 from ``start`` on, around the ring."""
        return self.streams.take(np.arange(start, start + n_frames), axis=1, mode="wrap").astype(np.int64)

    def at(self, frame: int) -> CodedUtterance:
        """The utterance that a frame belongs to."""
        return self.utterances[int(np.searchsorted(self.starts, frame % self.n_frames, side="right")) - 1]


def streams_of(utterance: CodedUtterance) -> np.ndarray:
    """Streams (S, F) uint16 of one utterance: pitch first, then the codebooks."""
    return np.concatenate([utterance.pitch[None].astype(np.uint16), utterance.codes])


def make_tapes(utterances: Sequence[CodedUtterance]) -> list[CodeTape]:
    """A tape for each speaker, by name."""
    by_speaker: dict[str, list[CodedUtterance]] = {}
    for utterance in utterances:
        by_speaker.setdefault(utterance.speaker, []).append(utterance)
    return [CodeTape(by_speaker[name]) for name in sorted(by_speaker)]


class CodeStretches(Dataset[dict[str, Any]]):
    """Item i is decided by ``(seed, i)`` alone, so that a run resumes exactly.

    Half of the items begin where a recording begins and see no frame before it; the others begin anywhere. The speaker
    vector is that of a random recording of the same tape: at sampling it comes from elsewhere, too.

    Items: ``codes``, streams (S, F) with ``absent`` for codebooks that are left out, ``before``, the frame before them,
    ``voice``, a quantized speaker vector, ``language``, ``keep_speaker``, ``keep_language``.

    Args:
        absent: the number that stands for no code.
        condition_dropout: probability with which each condition is left out.
        book_dropout: probability that only the first few codebooks are shown.
        temper: the exponent of the speakers' durations.
    """

    def __init__(
        self,
        tapes: Sequence[CodeTape],
        languages: Sequence[str],
        n_frames: int,
        absent: int,
        seed: int,
        condition_dropout: float,
        book_dropout: float,
        temper: float = 0.8,
    ) -> None:
        self.tapes, self.languages, self.n_frames = tapes, {name: i for i, name in enumerate(languages)}, n_frames
        self.absent, self.seed = absent, seed
        self.condition_dropout, self.book_dropout = condition_dropout, book_dropout
        weights = np.array([tape.n_frames for tape in tapes], np.float64) ** temper
        self._cumulative = np.cumsum(weights / weights.sum())

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, index))
        tape = self.tapes[min(int(np.searchsorted(self._cumulative, rng.random())), len(self.tapes) - 1)]
        n_books = len(tape.codes)
        if rng.random() < 0.5:
            start = int(rng.choice(tape.starts))
            before = np.full(len(tape.streams), self.absent)
        else:
            start = int(rng.integers(tape.n_frames))
            before = tape.read(start - 1, 1)[:, 0]
        codes = tape.read(start, self.n_frames)
        if rng.random() < self.book_dropout and n_books > 1:
            shown = 1 + int(rng.integers(1, n_books))
            codes[shown:] = before[shown:] = self.absent
        voice = tape.utterances[int(rng.integers(len(tape.utterances)))].voice
        return {
            "codes": torch.from_numpy(codes),
            "before": torch.from_numpy(before),
            "voice": torch.from_numpy(voice),
            "language": self.languages.get(tape.at(start).language, -1),
            "keep_speaker": rng.random() >= self.condition_dropout,
            "keep_language": rng.random() >= self.condition_dropout,
        }


class CodeRuns(Dataset[dict[str, Any]]):
    """Every speaker's utterances end to end in runs of ``n_frames``, each code once; short runs end in absent codes.

    The first frame of a recording's run sees what the one before ended with, except at the start of a tape.
    """

    def __init__(self, tapes: Sequence[CodeTape], languages: Sequence[str], n_frames: int, absent: int) -> None:
        self.languages = {name: i for i, name in enumerate(languages)}
        self.n_frames, self.absent = n_frames, absent
        self.places = [(tape, start) for tape in tapes for start in range(0, tape.n_frames, n_frames)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        tape, start = self.places[index]
        n = min(self.n_frames, tape.n_frames - start)
        codes = np.full((len(tape.streams), self.n_frames), self.absent)
        codes[:, :n] = tape.read(start, n)
        before = tape.read(start - 1, 1)[:, 0] if start else np.full(len(codes), self.absent)
        return {
            "codes": torch.from_numpy(codes),
            "before": torch.from_numpy(before),
            "voice": torch.from_numpy(tape.at(start).voice),
            "language": self.languages.get(tape.at(start).language, -1),
        }
