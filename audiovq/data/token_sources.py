"""Recordings that `audiovq tokenize` codes: those of a folder or of a prepared corpus, one by one or in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.bitstream.speech_file import model_blocks
from audiovq.data.corpora import NAMES, open_corpus
from audiovq.data.places import find_files, is_url, local_copy, read_text
from audiovq.data.token_files import TokenizedUtterance
from audiovq.data.utterance import MANIFEST, ShardReader, Utterance, split_of
from audiovq.errors import AudioVQError
from audiovq.io import shown
from audiovq.media.containers import CONTAINER_SUFFIXES
from audiovq.media.waveform import READABLE, n_resampled, open_audio

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec
    from audiovq.interfaces import Codec, Packet

_PART = 30 * 16000
"""Samples of a prepared corpus that are read at a time."""


class StoppedError(Exception):
    """Coding was told to stop."""


@dataclass(frozen=True, slots=True)
class TokenSource:
    """One recording that is to be coded: a file, or an utterance of a prepared corpus, and its bytes on disk."""

    id: str
    speaker: str
    language: str
    split: str
    n_bytes: int
    place: str | Utterance

    @classmethod
    def of(cls, u: Utterance) -> TokenSource:
        """An utterance of a prepared corpus."""
        return cls(u.id, u.speaker, u.language, u.split, 2 * u.n_samples, u)


@dataclass(frozen=True)
class Coded:
    """The result of coding a `TokenSource`: an item for each channel, or why it could not be coded, and remarks."""

    id: str
    n_bytes: int
    items: list[TokenizedUtterance]
    fault: str | None = None
    remarks: list[str] = field(default_factory=list)


def list_sources(corpus: str, language: str = "und") -> list[TokenSource]:
    """The recordings of a folder (a URL is one, too), or of a prepared corpus by folder or name, in one fixed order.

    In a plain folder the first folder below is the speaker, as in `audiovq.data.corpora`; nothing is opened, so that
    files which are no audio show when their turn comes.

    Raises:
        AudioVQError: when there is no such folder or corpus, or no recording in it.
    """
    if is_url(corpus):
        url = corpus.rstrip("/")
        sizes = sorted((Path(name), size) for name, size in find_files(corpus).items() if _is_recording(Path(name)))
        return _sources(corpus, Path(url).name, [(path, n, f"{url}/{path.as_posix()}") for path, n in sizes], language)
    root = Path(corpus).expanduser()
    if root.is_dir() and not (root / MANIFEST).is_file():
        files = sorted(path for path in root.rglob("*") if _is_recording(path) and path.is_file())
        found = [(path.relative_to(root), path.stat().st_size, str(path)) for path in files]
        return _sources(str(root), root.resolve().name, found, language)
    if not root.exists() and corpus not in NAMES:
        raise AudioVQError(f"{corpus}: no such folder, and no corpus of that name ({', '.join(NAMES)})")
    if root.exists() and not root.is_dir():
        raise AudioVQError(f"{corpus}: is a file; give a folder of recordings")
    utterances = open_corpus(str(root) if root.is_dir() else corpus, None)
    if not utterances:
        raise AudioVQError(f"{corpus}: the corpus has no recordings")
    return [TokenSource.of(utterance) for utterance in utterances]


def _is_recording(path: Path) -> bool:
    # Names with a dot in front are hidden: among them are files that are just being written.
    return path.suffix.lower() in READABLE + CONTAINER_SUFFIXES and not path.name.startswith(".")


def _sources(root: str, name: str, files: list[tuple[Path, int, str]], language: str) -> list[TokenSource]:
    """Files as (path below the folder, bytes, place) -> what is to be coded."""
    if not files:
        raise AudioVQError(f"{root}: no recordings in this folder ({', '.join(READABLE)})")
    sources: dict[str, TokenSource] = {}
    for within, n_bytes, place in files:
        id, speaker = shown(within.as_posix()), shown(f"{name}/{within.parts[0] if len(within.parts) > 1 else name}")
        while id in sources:  # what one name has in bytes another may have in letters
            id += "'"
        sources[id] = TokenSource(id, speaker, language, split_of(within.name), n_bytes, place)
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
        mono: mix all channels down to one first.
        stopping: asked for every block; coding ends with `StoppedError` when it says so.

    Raises:
        AudioVQError: for a recording that cannot be read or coded.
    """
    with open_source(source) as (audio, text):
        n_channels = audio.count_channels(mono)
        streams = [codec.encoder_stream(n_codebooks) for _ in range(n_channels)]
        packets: list[list[Packet]] = [[] for _ in streams]
        for samples in model_blocks(audio, codec, mono):
            if stopping():
                raise StoppedError
            for c, stream in enumerate(streams):
                packets[c] += stream.finish() if samples is None else stream.push(np.ascontiguousarray(samples[:, c]))
        n_samples = n_resampled(audio.n_read, audio.sample_rate, codec.sample_rate)
        coded = [(row, np.asarray(stream.speaker)) for row, stream in zip(packets, streams, strict=True)]
    return Coded(source.id, source.n_bytes, make_items(source, text, audio, coded, n_samples), remarks=audio.remarks)


@contextmanager
def open_source(source: TokenSource) -> Iterator[tuple[Any, str | None]]:
    """The audio of a recording, and its transcript."""
    if isinstance(source.place, Utterance):
        yield _Samples(source.place), source.place.text
    elif not is_url(source.place):
        with open_audio(source.place) as audio:
            yield audio, _transcript(source.place)
    else:
        with local_copy(source.place) as path:
            try:
                with open_audio(path) as audio:
                    yield audio, _transcript(source.place)
            except AudioVQError as error:
                raise AudioVQError(str(error).replace(str(path), source.place)) from error


class _Samples:
    """An utterance as the reader of a file: blocks of one channel."""

    def __init__(self, utterance: Utterance) -> None:
        self.sample_rate, self.n_channels, self.n_read = utterance.sample_rate, 1, 0
        self.remarks: list[str] = []
        self._utterance = utterance

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


def make_items(
    source: TokenSource, text: str | None, audio: Any, coded: Sequence[tuple[list[Packet], np.ndarray]], n_samples: int
) -> list[TokenizedUtterance]:
    """Items of a recording's channels, each packets and speaker vector (S,), but of those that repeat another."""
    items: list[TokenizedUtterance] = []
    before: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {name: getattr(source, name) for name in ("id", "speaker", "language", "split")}
    about |= {"text": text, "seconds": audio.n_read / audio.sample_rate, "source_rate": audio.sample_rate}
    for c, (packets, speaker) in enumerate(coded):
        arrays: dict[str, Any] = {
            "codes": np.concatenate([packet.codes.astype(np.uint16) for packet in packets], axis=1),
            "pitch": np.concatenate([packet.pitch.astype(np.uint8) for packet in packets]),
            "levels": np.array([packet.level for packet in packets], np.uint8),
            "voice": np.asarray(speaker, np.int64),
        }
        if not before or not all(np.array_equal(arrays[name], before[name]) for name in arrays):
            items.append(TokenizedUtterance(**about, **arrays, n_samples=n_samples, channel=c))
        before = arrays
    return items


def _transcript(place: str) -> str | None:
    """The ``.txt`` beside a recording."""
    name = place[: len(place) - len(Path(place).suffix)] + ".txt"
    try:
        return read_text(name).strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise AudioVQError(f"{name}: cannot be read as text: {error}") from error


BATCH_SECONDS = 1200.0
"""Audio that is read before it is coded: 80 MB; a longer recording is a batch of its own."""


@dataclass
class Loaded:
    """A recording in memory: transcript, reader, and channels (T,) float32 at the codec's rate."""

    source: TokenSource
    text: str | None
    audio: Any
    channels: list[np.ndarray]


def load_source(source: TokenSource, codec: Codec, mono: bool) -> Loaded:
    """Read a recording at the codec's rate."""
    with open_source(source) as (audio, text):
        audio.count_channels(mono)
        blocks = [block for block in model_blocks(audio, codec, mono) if block is not None]
    return Loaded(source, text, audio, list(np.ascontiguousarray(np.concatenate(blocks).T)))


def code_batches(
    codec: SpeechCodec,
    sources: Iterable[TokenSource],
    n_codebooks: int,
    mono: bool,
    guarded: Callable[[TokenSource, Callable[[], Any]], Any],
) -> Iterator[Coded]:
    """Code recordings in their order, some `BATCH_SECONDS` of audio at a time.

    ``guarded`` calls a function for a source and gives its result, or a `Coded` with the fault that it raised.
    """
    waiting: list[Loaded | Coded] = []
    n_samples = 0
    for source in sources:
        waiting.append(guarded(source, lambda source=source: load_source(source, codec, mono)))  # type: ignore[misc]
        if isinstance(waiting[-1], Loaded):
            n_samples += sum(map(len, waiting[-1].channels))
        if n_samples >= BATCH_SECONDS * codec.sample_rate:
            yield from _code_batch(codec, waiting, n_codebooks)
            waiting, n_samples = [], 0
    yield from _code_batch(codec, waiting, n_codebooks)


def _code_batch(codec: SpeechCodec, batch: list[Loaded | Coded], n_codebooks: int) -> Iterator[Coded]:
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
