"""What `audiovq tokenize` codes: the recordings of a folder or of a prepared corpus, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.data.corpora import NAMES, open_corpus
from audiovq.data.shards import MANIFEST, ShardReader
from audiovq.data.splits import split_of
from audiovq.data.token_files import TokenizedUtterance
from audiovq.data.utterance import Utterance
from audiovq.errors import AudioVQError
from audiovq.io import shown
from audiovq.media.containers import CONTAINER_SUFFIXES
from audiovq.media.waveform import READABLE, Resampler, n_resampled, open_audio

if TYPE_CHECKING:
    from audiovq.interfaces import Codec

_PART = 30 * 16000
"""Samples of a prepared corpus that are read at a time."""


class StoppedError(Exception):
    """Coding was told to stop."""


@dataclass(frozen=True, slots=True)
class TokenSource:
    """One recording that is to be coded: a file, or an utterance of a prepared corpus.

    Attributes:
        id, speaker, language, split: as in `Utterance`.
        n_bytes: what it takes on disk, for cutting shards and for progress.
        place: the file, or the utterance.
    """

    id: str
    speaker: str
    language: str
    split: str
    n_bytes: int
    place: str | Utterance


@dataclass(frozen=True)
class Coded:
    """The result of coding a recording.

    Attributes:
        id, n_bytes: as of its `TokenSource`.
        items: its codes, an item for each channel.
        fault: why it could not be coded.
        remarks: on the recording, for its user.
    """

    id: str
    n_bytes: int
    items: list[TokenizedUtterance]
    fault: str | None = None
    remarks: list[str] = field(default_factory=list)


def list_sources(corpus: str, language: str = "und") -> list[TokenSource]:
    """The recordings of a folder, or of a prepared corpus by folder or name, in one fixed order.

    In a plain folder the first folder below is the speaker, as in `audiovq.data.folder`; nothing is opened, so that
    files which are no audio show when their turn comes.

    Raises:
        AudioVQError: when there is no such folder or corpus, or no recording in it.
    """
    root = Path(corpus).expanduser()
    if root.is_dir() and not (root / MANIFEST).is_file():
        return _list_folder(root, language)
    if not root.exists() and corpus not in NAMES:
        raise AudioVQError(f"{corpus}: no such folder, and no corpus of that name ({', '.join(NAMES)})")
    if root.exists() and not root.is_dir():
        raise AudioVQError(f"{corpus}: is a file; name a folder of recordings")
    utterances = open_corpus(str(root) if root.is_dir() else corpus, None)
    if not utterances:
        raise AudioVQError(f"{corpus}: the corpus has no recordings")
    return [TokenSource(u.id, u.speaker, u.language, u.split, 2 * u.n_samples, u) for u in utterances]


def _list_folder(root: Path, language: str) -> list[TokenSource]:
    # Names with a dot in front are hidden: among them are files that are just being written.
    files = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in READABLE + CONTAINER_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not files:
        raise AudioVQError(f"{root}: no recordings in this folder ({', '.join(READABLE)})")
    name = root.resolve().name
    sources: dict[str, TokenSource] = {}
    for path in files:
        within = path.relative_to(root)
        id, speaker = shown(within.as_posix()), shown(f"{name}/{within.parts[0] if len(within.parts) > 1 else name}")
        while id in sources:  # what one name has in bytes another may have in letters
            id += "'"
        split = split_of(path.name)
        sources[id] = TokenSource(id, speaker, language, split, path.stat().st_size, str(path))
    return list(sources.values())


def code_source(
    codec: Codec,
    source: TokenSource,
    n_codebooks: int,
    mono: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> Coded:
    """Code a recording, an item for each channel but those that repeat the one before, while it is read.

    Args:
        codec: the model.
        source: the recording.
        n_codebooks: to keep.
        mono: mix all channels down to one first.
        stopping: asked now and then; coding ends with `StoppedError` when it says so.

    Raises:
        AudioVQError: for a recording that cannot be read or coded.
    """
    if isinstance(source.place, Utterance):
        with _Samples(source.place) as audio:
            return _code(codec, source, audio, n_codebooks, mono, source.place.text, stopping)
    with open_audio(source.place) as audio:
        return _code(codec, source, audio, n_codebooks, mono, _transcript(Path(source.place)), stopping)


class _Samples:
    """An utterance as the reader of a file: blocks of one channel."""

    def __init__(self, utterance: Utterance) -> None:
        self.sample_rate, self.n_channels, self.n_read = utterance.sample_rate, 1, 0
        self.remarks: list[str] = []
        self._utterance = utterance

    def __enter__(self) -> _Samples:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def count_channels(self, mono: bool) -> int:
        return 1

    def blocks(self, mono: bool) -> Iterator[np.ndarray]:
        total = self._utterance.n_samples
        # Only prepared shards give parts without decoding the whole each time.
        step = _PART if isinstance(self._utterance.reader, ShardReader) else max(total, 1)
        for start in range(0, total, step):
            block = self._utterance.load(start, step)[:, None] if step < total else self._utterance.load()[:, None]
            self.n_read += len(block)
            yield block


def _code(
    codec: Codec,
    source: TokenSource,
    audio: Any,
    n_codebooks: int,
    mono: bool,
    text: str | None,
    stopping: Callable[[], bool],
) -> Coded:
    n_channels = audio.count_channels(mono)
    streams = [codec.encoder_stream(n_codebooks) for _ in range(n_channels)]
    resampler = Resampler(audio.sample_rate, codec.sample_rate, n_channels)
    packets: list[list[np.ndarray]] = [[] for _ in streams]

    def push(samples: np.ndarray) -> None:
        for c, stream in enumerate(streams):
            packets[c] += [p.codes.astype(np.uint16) for p in stream.push(np.ascontiguousarray(samples[:, c]))]

    for block in audio.blocks(mono):
        if stopping():
            raise StoppedError
        push(resampler.push(block))
    n_samples = n_resampled(audio.n_read, audio.sample_rate, codec.sample_rate)
    push(resampler.finish(n_samples))
    items: list[TokenizedUtterance] = []
    for c, stream in enumerate(streams):
        codes = np.concatenate(packets[c] + [p.codes.astype(np.uint16) for p in stream.finish()], axis=1)
        assert stream.speaker is not None
        if items and np.array_equal(items[-1].codes, codes) and np.array_equal(items[-1].voice, stream.speaker):
            continue
        items.append(
            TokenizedUtterance(
                id=source.id,
                speaker=source.speaker,
                language=source.language,
                split=source.split,
                codes=codes,
                voice=np.asarray(stream.speaker, np.int64),
                n_samples=n_samples,
                text=text,
                seconds=audio.n_read / audio.sample_rate,
                source_rate=audio.sample_rate,
                channel=c,
            )
        )
    return Coded(source.id, source.n_bytes, items, remarks=audio.remarks)


def _transcript(path: Path) -> str | None:
    """The ``.txt`` beside a recording."""
    try:
        return path.with_suffix(".txt").read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise AudioVQError(f"{path.with_suffix('.txt')}: cannot be read as text: {error}") from error
