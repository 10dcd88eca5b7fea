"""Shards of codes as a stream of training items, shuffled and shared out among processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from audiovq.data.splits import SPLITS
from audiovq.data.token_files import TokenizedUtterance
from audiovq.data.token_layouts import lay_out, vocabulary
from audiovq.data.tokens import TokenShards
from audiovq.errors import AudioVQError


class TokenDataset(IterableDataset[dict[str, Any]]):
    """Every item once an epoch, for a `DataLoader` with any number of workers on any number of ranks.

    Items: ``codes``, int64 in the layout asked for ((K, F) by default), ``pitch (F,)``, ``level (P,)`` and
    ``voice (S,)`` int64, and ``id``, ``channel``, ``speaker``, ``language``, ``text`` ("" where there is none),
    ``split``, ``seconds``, ``n_samples``. Lengths differ: give the `DataLoader` ``batch_size=None`` or a
    ``collate_fn``.

    Whole shards are shared out when there are enough for all workers of all ranks, and single items otherwise. Each
    order is decided by ``(seed, epoch)``; call `set_epoch` before each epoch.

    Args:
        folder: with the shards.
        model: which model's codes they must be; see `TokenShards`.
        split: only items of this split; None: all.
        n_codebooks: only the first so many books.
        layout: see `audiovq.data.token_layouts`.
        shuffle: items of a buffer from which the next one is drawn at random, and shards in random order; 0: in order.
        seed: of the order.
        rank, world_size: which share of how many; from ``torch.distributed`` when it runs, else all.

    Attributes:
        shards: the folder.
        vocabulary: number of different tokens.

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
            raise AudioVQError(f"{folder} holds 1 to {kept} codebooks, {n_codebooks} were asked for")
        if split is not None and split not in SPLITS:
            raise AudioVQError(f"no split {split!r}: there are {', '.join(SPLITS)}")
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
