"""Token shards on disk: layouts, reading and writing."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audiovq.data.utterance import CodedUtterance
from audiovq.errors import AudioVQError, need
from audiovq.hub import ModelFacts

LAYOUTS = ("codes", "interleaved", "books", "delay")


def vocabulary(layout: str, n_codebooks: int, codebook_size: int) -> int:
    """How many different tokens a layout has (of a row, where it has rows).

    Raises:
        AudioVQError: for a layout that is not known.
    """
    _check(layout)
    return {"codes": codebook_size, "delay": codebook_size + 1}.get(layout, n_codebooks * codebook_size)


def lay_out(codes: np.ndarray, layout: str, codebook_size: int) -> np.ndarray:
    """Codes (K, F) in a layout, int64. ``codes`` leaves them as they are.

    Raises:
        AudioVQError: for a layout that is not known.
    """
    _check(layout)
    codes = codes.astype(np.int64)
    n_books, n_frames = codes.shape
    if layout == "codes":
        return codes
    if layout == "delay":
        delayed = np.full((n_books, n_frames + n_books - 1), codebook_size)
        for k in range(n_books):
            delayed[k, k : k + n_frames] = codes[k]
        return delayed
    tokens = codes + np.arange(n_books)[:, None] * codebook_size
    return (tokens.T if layout == "interleaved" else tokens).reshape(-1)


def from_layout(tokens: np.ndarray, layout: str, codebook_size: int, n_codebooks: int) -> np.ndarray:
    """Codes (K, F) int64 of what `lay_out` gave, or of what a model made in that layout.

    Raises:
        AudioVQError: for tokens that are not in that layout.
    """
    _check(layout)
    tokens = np.asarray(tokens, np.int64)
    if layout == "codes":
        codes = tokens
    elif layout == "delay":
        n_frames = tokens.shape[1] - n_codebooks + 1
        codes = np.stack([tokens[k, k : k + n_frames] for k in range(n_codebooks)])
    else:
        if tokens.ndim != 1 or len(tokens) % n_codebooks:
            raise AudioVQError(f"{tokens.shape} tokens do not form whole frames of {n_codebooks} codebooks")
        rows = tokens.reshape(-1, n_codebooks).T if layout == "interleaved" else tokens.reshape(n_codebooks, -1)
        codes = rows - np.arange(n_codebooks)[:, None] * codebook_size
    if len(codes) != n_codebooks or (codes < 0).any() or (codes >= codebook_size).any():
        raise AudioVQError(f"invalid tokens for layout {layout!r}: a token is outside the range of its codebook")
    return codes


def _check(layout: str) -> None:
    if layout not in LAYOUTS:
        raise AudioVQError(f"unknown layout {layout!r}; choose from {', '.join(LAYOUTS)}")


MANIFEST, PROGRESS = "manifest.json", ".progress"
FORMAT, VERSION = "audiovq-tokens", 2
SUFFIXES = {"tar": ".tar", "parquet": ".parquet"}
_BUFFERED_FRAMES = 1 << 20
"""Frames that a Parquet file collects before it writes them as a row group: 16 MB of eight codebooks."""


@dataclass(frozen=True, slots=True)
class TokenizedUtterance(CodedUtterance):
    """One recording as codes, as it stands in a shard, with its source's length, rate in Hz and channel (mixed: 0)."""

    text: str | None
    seconds: float
    source_rate: int
    channel: int


_OF_ITEM = ("id", "channel", "speaker", "language", "text", "split", "seconds", "source_rate", "n_samples")
#: What a shard says of an item but its codes and pitch, and the types of a Parquet file's columns.
_COLUMNS = {
    "id": "string",
    "channel": "int32",
    "speaker": "string",
    "language": "string",
    "text": "string",
    "split": "string",
    "seconds": "float64",
    "source_rate": "int32",
    "sample_rate": "int32",
    "n_samples": "int64",
    "n_frames": "int32",
    "n_codebooks": "int32",
    "voice": "list uint16",
    "level": "list uint8",
    "model": "string",
    "codes_hash": "string",
}


@dataclass(frozen=True, slots=True)
class CodesModel:
    """Whose codes they are: fields as of `SpeechCodec`, its ``model_hash`` in hexadecimal, and the codebooks kept."""

    name: str
    codes_hash: str
    n_codebooks: int
    codebook_size: int
    sample_rate: int
    hop_length: int

    @classmethod
    def of(cls, facts: ModelFacts, n_codebooks: int | None = None) -> CodesModel:
        """The first codebooks of a model, or its default number of them."""
        about = (facts.name, facts.model_hash.hex(), n_codebooks or facts.default_n_codebooks)
        return cls(*about, facts.codebook_size, facts.sample_rate, facts.hop_length)

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / self.hop_length

    def facts_of(self, item: TokenizedUtterance) -> dict[str, Any]:
        """All that a shard says of an item but its codes and pitch."""
        facts = {name: getattr(item, name) for name in (*_OF_ITEM, "n_frames")}
        facts |= {"n_codebooks": len(item.codes), "voice": item.voice.tolist(), "level": item.levels.tolist()}
        facts |= {"sample_rate": self.sample_rate, "model": self.name, "codes_hash": self.codes_hash}
        return {name: facts[name] for name in _COLUMNS}


def make_item(
    facts: dict[str, Any], codes: np.ndarray, pitch: np.ndarray, about: str, codes_hash: str
) -> TokenizedUtterance:
    """The item that ``facts``, ``codes`` (K, F) and ``pitch`` (F,) describe.

    Raises:
        AudioVQError: when they do not fit each other, or were written by another model than ``codes_hash``.
    """
    if facts["codes_hash"] != codes_hash:
        raise AudioVQError(
            f"{about}: item {facts['id']} was encoded with model {facts['model']} ({facts['codes_hash']}), not "
            f"{codes_hash} as in the manifest: shards of two models were mixed"
        )
    if codes.shape != (facts["n_codebooks"], facts["n_frames"]) or pitch.shape != codes.shape[1:]:
        raise AudioVQError(f"{about}: damaged: the codes of item {facts['id']} do not match their metadata")
    voice, levels = np.array(facts["voice"], np.int64), np.array(facts["level"], np.uint8)
    fields = {name: facts[name] for name in _OF_ITEM}
    return TokenizedUtterance(**fields, codes=codes, voice=voice, pitch=pitch, levels=levels)


def create_shard(path: Path, container: str, model: CodesModel, prefix: str) -> TarShard | ParquetShard:
    """A writer for ``container`` "tar" or "parquet"; keys in a tar begin with ``prefix``.

    Raises:
        AudioVQError: when pyarrow is needed and missing.
    """
    return TarShard(path, model, prefix) if container == "tar" else ParquetShard(path, model)


class TarShard:
    """Items in a tar file."""

    def __init__(self, path: Path, model: CodesModel, prefix: str) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by `close`
        self._model, self._prefix, self._number = model, prefix, 0

    def add(self, item: TokenizedUtterance) -> None:
        codes, pitch = io.BytesIO(), io.BytesIO()
        np.save(codes, np.ascontiguousarray(item.codes, "<u2"))
        np.save(pitch, np.ascontiguousarray(item.pitch, np.uint8))
        facts = json.dumps(self._model.facts_of(item), ensure_ascii=False)
        files = {"codes.npy": codes.getvalue(), "pitch.npy": pitch.getvalue(), "json": facts.encode()}
        for suffix, data in files.items():
            # No time, no owner: the same bytes every time.
            member = tarfile.TarInfo(f"{self._prefix}{self._number:06d}.{suffix}")
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))
        self._number += 1

    def close(self) -> None:
        self._tar.close()


class ParquetShard:
    """Items in a Parquet file."""

    def __init__(self, path: Path, model: CodesModel) -> None:
        self._arrow, parquet = require_pyarrow()
        types = {**_COLUMNS, "pitch": "list uint8", "codes": "list list uint16"}
        self._model, self._schema = (
            model,
            self._arrow.schema([(name, self._type(kind)) for name, kind in types.items()]),
        )
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._items: list[TokenizedUtterance] = []
        self._n_frames = 0

    def _type(self, kind: str) -> Any:
        outer, _, inner = kind.partition(" ")
        return self._arrow.list_(self._type(inner)) if inner else getattr(self._arrow, outer)()

    def add(self, item: TokenizedUtterance) -> None:
        self._items.append(item)
        self._n_frames += item.n_frames
        if self._n_frames >= _BUFFERED_FRAMES:
            self._flush()

    def _flush(self) -> None:
        arrays = (
            {"pitch": item.pitch.astype(np.uint8), "codes": [*item.codes.astype(np.uint16)]} for item in self._items
        )
        rows = [self._model.facts_of(item) | more for item, more in zip(self._items, arrays, strict=True)]
        self._writer.write_table(self._arrow.Table.from_pylist(rows, schema=self._schema))
        self._items, self._n_frames = [], 0

    def close(self) -> None:
        if self._items:
            self._flush()
        self._writer.close()


def read_shard(path: Path, container: str, codes_hash: str) -> Iterator[TokenizedUtterance]:
    """The items of a shard in their order, a few in memory at a time.

    Raises:
        AudioVQError: for a shard that is missing or damaged, or of another model than ``codes_hash``; when pyarrow is
            needed and missing.
    """
    try:
        yield from (_read_tar if container == "tar" else _read_parquet)(path, codes_hash)
    except (ValueError, KeyError) as error:
        raise AudioVQError(f"{path}: damaged: {' '.join(str(error).split())[:100]}") from error


def _read_tar(path: Path, codes_hash: str) -> Iterator[TokenizedUtterance]:
    with closing(_members(path)) as members:
        arrays: dict[str, np.ndarray] = {}
        for name, data in members:
            key, _, suffix = name.partition(".")
            if suffix in ("codes.npy", "pitch.npy"):
                arrays[name] = np.load(io.BytesIO(data), allow_pickle=False)
            elif suffix == "json":
                names = [f"{key}.codes.npy", f"{key}.pitch.npy"]
                if set(arrays) != set(names):
                    raise AudioVQError(f"{path}: damaged: no codes and pitch before {name}")
                codes, pitch = (arrays.pop(one) for one in names)
                yield make_item(json.loads(data), codes, pitch, str(path), codes_hash)


def _members(path: Path) -> Generator[tuple[str, bytes], None, None]:
    try:
        with tarfile.open(path, "r|") as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    yield member.name, file.read()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise AudioVQError(f"{path}: cannot be read: {error}") from error


def _read_parquet(path: Path, codes_hash: str) -> Iterator[TokenizedUtterance]:
    arrow, parquet = require_pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group).combine_chunks()
                rows = table.drop_columns("codes").to_pylist()
                codes = table.column("codes")
                for i, row in enumerate(rows):
                    books = codes[i].values
                    flat = books.flatten().to_numpy(zero_copy_only=False)
                    pitch = np.array(row.pop("pitch"), np.uint8)
                    yield make_item(row, flat.reshape(len(books), -1), pitch, str(path), codes_hash)
    except (OSError, ValueError, KeyError, arrow.ArrowException) as error:
        raise AudioVQError(f"{path}: cannot be read: {error}") from error


def require_pyarrow() -> tuple[Any, Any]:
    """The modules ``pyarrow`` and ``pyarrow.parquet``."""
    return need("pyarrow", "Parquet", "tokens"), need("pyarrow.parquet", "Parquet", "tokens")
