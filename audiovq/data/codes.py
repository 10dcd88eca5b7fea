"""A corpus as codes on disk, coded once: flat memory-mapped arrays, found by the codec's and the corpus's hashes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.data.places import locked
from audiovq.data.utterance import CodedUtterance
from audiovq.errors import AudioVQError
from audiovq.io import cache_dir

if TYPE_CHECKING:
    from torch import Tensor

    from audiovq.codec.codec import SpeechCodec

Progress = Callable[[int, int], None]
TOKENS = "tokens"
"""The name that shards of codes go by in a list of corpora."""
_LAYOUT = b"3"  # of the folders; others have other names


@dataclass(frozen=True)
class CodesFacts:
    """Facts about the codec that made some codes, by its hash: all that training on them needs to know of it."""

    codec: str
    n_codebooks: int
    codebook_size: int
    sample_rate: int
    hop_length: int
    packet_frames: int
    speaker_levels: int

    @classmethod
    def of(cls, codec: Any, n_codebooks: int | None = None) -> CodesFacts:
        """Facts about a loaded codec, with its first codebooks or all."""
        sizes = (n_codebooks or codec.n_codebooks, codec.codebook_size, codec.sample_rate, codec.hop_length)
        return cls(codec.model_hash.hex(), *sizes, codec.packet_frames, codec.n_speaker_levels)

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length


_ABOUT = ("id", "speaker", "language", "split", "n_frames", "n_samples")


class CodesCache:
    """A folder with the codes of a corpus.

    ``codes.u16`` has the frames of all utterances end to end (K values a frame, little-endian), ``voices.u16`` S values
    an utterance, ``pitch.u8`` a value a frame and ``levels.u8`` a value a packet,
    ``codebooks.npy`` the codebooks (K, V, D), where they are known, ``index.json`` the rest.

    Raises:
        AudioVQError: when the folder is damaged, or holds no codes.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            index = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
            self.facts = facts = CodesFacts(**index["facts"])
            lines = index["utterances"]
            codes = np.memmap(self.folder / "codes.u16", "<u2", "r").reshape(-1, facts.n_codebooks)
            voices = np.fromfile(self.folder / "voices.u16", "<u2").reshape(len(lines), -1).astype(np.int64)
            pitch = np.memmap(self.folder / "pitch.u8", np.uint8, "r")
            levels = np.fromfile(self.folder / "levels.u8", np.uint8)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AudioVQError(f"the codes in {self.folder} are damaged ({error}): delete that folder") from None
        self.utterances = []
        start = packet = 0
        for line, voice in zip(lines, voices, strict=True):
            stop, packet_stop = start + line["n_frames"], packet - (-line["n_frames"] // facts.packet_frames)
            about: dict[str, Any] = {name: line[name] for name in _ABOUT if name != "n_frames"}
            about |= {"codes": codes[start:stop].T, "pitch": pitch[start:stop], "levels": levels[packet:packet_stop]}
            self.utterances.append(CodedUtterance(**about, voice=voice))
            start, packet = stop, packet_stop
        if (start, start, packet) != (len(codes), len(pitch), len(levels)):
            raise AudioVQError(f"the codes in {self.folder} do not match their index: delete that folder")

    @property
    def tables(self) -> Tensor | None:
        """The codec's codebooks (K, V, D) float32; None where they are not known."""
        import torch

        path = self.folder / "codebooks.npy"
        return torch.from_numpy(np.load(path).astype(np.float32)) if path.is_file() else None

    def split(self, name: str) -> list[CodedUtterance]:
        """The utterances of one split, in the corpus's order; `AudioVQError` when there are none."""
        found = [u for u in self.utterances if u.split == name]
        if not found:
            raise AudioVQError(
                f"none of the {len(self.utterances)} recordings is in the split {name!r} (codes: {self.folder}); of a "
                "plain folder's files one in 20 is test and one validation: add recordings"
            )
        return found


_FILES = ("codes.u16", "voices.u16", "pitch.u8", "levels.u8")


class _CodesWriter:
    """Appends utterances to a folder, and goes on with one that was left unfinished.

    A line of ``utterances.jsonl`` says which bytes of each file are written with it.
    """

    def __init__(self, folder: Path) -> None:
        self._files = [(folder / name).open("ab") for name in _FILES]
        self._listing = (folder / "utterances.jsonl").open("a+", encoding="utf-8")
        self.lines = self._read_lines()
        for file, size in zip(self._files, self.lines[-1]["ends"] if self.lines else [0] * len(_FILES), strict=True):
            file.truncate(size)
        self._listing.truncate(0)
        self._listing.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines)

    def _read_lines(self) -> list[dict[str, Any]]:
        """Utterances that were written completely."""
        lines: list[dict[str, Any]] = []
        self._listing.seek(0)
        for text in self._listing:
            try:
                lines.append(json.loads(text))
            except ValueError:  # cut off
                break
        while lines and any(size < end for size, end in zip(self._ends(), lines[-1]["ends"], strict=True)):
            lines.pop()
        return lines

    def _ends(self) -> list[int]:
        return [os.fstat(file.fileno()).st_size for file in self._files]

    def add(self, utterance: CodedUtterance) -> None:
        """Append one utterance; it is listed when its arrays are in the files."""
        arrays = (utterance.codes.T.astype("<u2"), utterance.voice.astype("<u2"), utterance.pitch, utterance.levels)
        for file, array in zip(self._files, arrays, strict=True):
            file.write(array.astype(array.dtype if array.dtype == "<u2" else np.uint8).tobytes())
            file.flush()
        about = {name: getattr(utterance, name) for name in _ABOUT}
        self.lines.append({**about, "ends": self._ends()})
        self._listing.write(json.dumps(self.lines[-1], ensure_ascii=False) + "\n")
        self._listing.flush()

    def close(self) -> None:
        """Close the files; what is written stays for the next call."""
        for file in (*self._files, self._listing):
            file.close()


def write_coded(
    folder: str | Path,
    facts: CodesFacts,
    utterances: Callable[[int], Iterable[CodedUtterance]],
    tables: np.ndarray | None = None,
) -> CodesCache:
    """Keep codes that come one by one; the folder appears when all are written.

    Args:
        utterances: gives those behind the first so many, which an interrupted call has written.
        tables: the codec's codebooks (K, V, D).

    Raises:
        AudioVQError: when there is none, or another process is writing them.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    with locked(partial / "lock", f"another process is writing the codes in {folder}: wait for it"):
        with closing(_CodesWriter(partial)) as writer:
            for utterance in utterances(len(writer.lines)):
                writer.add(utterance)
        if not writer.lines:
            raise AudioVQError("the corpus has no utterances to encode: choose another")
        if tables is not None:
            np.save(partial / "codebooks.npy", tables.astype(np.float16))
        index = {"facts": asdict(facts), "utterances": writer.lines}
        (partial / "index.json").write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")
        for name in ("utterances.jsonl", "lock"):
            (partial / name).unlink()
        os.rename(partial, folder)
    return CodesCache(folder)


def _tables(codec: SpeechCodec) -> np.ndarray:
    """A codec's codebooks (K, V, D), those of fewer dimensions completed with zeros."""
    quantizer = codec.quantizer
    tables = [level.table().detach().cpu().numpy() for level in (quantizer.content, *quantizer.detail.levels)]
    dim = max(table.shape[1] for table in tables)
    return np.stack([np.pad(table, ((0, 0), (0, dim - table.shape[1]))) for table in tables])


def cached_codes(
    codec: SpeechCodec,
    corpora: Sequence[str | Path | dict[str, Any]],
    root: str | Path | None = None,
    progress: Progress | None = None,
) -> CodesCache:
    """The codes of corpora (all splits): from ``<cache>/codes``, or made and kept there.

    The folder's name holds the codec's hash and one over what the corpora list (their utterances, splits, speakers and
    lengths) and the codec's encoder. Another codec or another preparation thus never meets old codes. An interrupted
    call is continued by the next one.

    Of ``{name: tokens, root: DIR}`` the codes are those of the shards in DIR, as many codebooks as these have.

    Raises:
        AudioVQError: see `open_corpus` and `write_coded`; for an utterance that cannot be coded, and for shards of
            another codec or beside other corpora.
    """
    from audiovq.data.corpora import open_corpora
    from audiovq.data.token_sources import TokenSource, code_source

    folder = Path(root or cache_dir() / "codes")
    for corpus in corpora:
        if isinstance(corpus, Mapping) and corpus.get("name") == TOKENS:
            if len(corpora) > 1:
                raise AudioVQError("shards of codes cannot be combined with other corpora: tokenize these, too")
            return _codes_of_shards(codec, corpus, folder)
    utterances = open_corpora(corpora, None)
    listing = "\n".join(f"{u.id}\t{u.speaker}\t{u.language}\t{u.split}\t{u.n_samples}\t{u.source}" for u in utterances)
    data = hashlib.sha256(_LAYOUT + listing.encode() + _encoder_identity(codec)).hexdigest()[:8]
    folder = folder / f"{codec.model_hash.hex()}-{data}"
    if (folder / "index.json").is_file():
        return CodesCache(folder)

    def coded(n_done: int) -> Iterator[CodedUtterance]:
        for done, utterance in enumerate(utterances[n_done:], n_done + 1):
            yield code_source(codec, TokenSource.of(utterance), codec.n_codebooks).items[0]
            if progress is not None:
                progress(done, len(utterances))

    return write_coded(folder, CodesFacts.of(codec), coded, _tables(codec))


def _encoder_identity(codec: SpeechCodec) -> bytes:
    """All that decides the codes and that the codec's hash leaves out: encoders and bits of codes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(codec.state_dict().items()):
        if name.startswith(("encoder.", "pitch.", "speaker_encoder.")) or name.endswith(".codebook.bits"):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.digest()


def _codes_of_shards(codec: SpeechCodec, corpus: Mapping[str, Any], caches: Path) -> CodesCache:
    """The codes of shards as flat arrays, which training reads anywhere."""
    from audiovq.data.tokens import TokenShards

    if set(corpus) != {"name", "root"}:
        raise AudioVQError(f"shards of codes take only their root, data.root=DIR, not {dict(corpus)}")
    shards = TokenShards(Path(str(corpus["root"])).expanduser(), codec)
    content = hashlib.sha256("".join(shard["sha256"] for shard in shards.manifest["shards"]).encode())
    folder = caches / f"{codec.model_hash.hex()}-shards{_LAYOUT.decode()}-{content.hexdigest()[:8]}"
    if (folder / "index.json").is_file():
        return CodesCache(folder)
    facts = CodesFacts.of(codec, shards.model.n_codebooks)
    return write_coded(folder, facts, lambda n_done: islice(shards, n_done, None))
