"""A corpus as codes on disk, coded once: flat memory-mapped arrays, found by the codec's and the corpus's hashes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.data.utterance import CodedUtterance, Utterance
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
    """Facts about the codec that made some codes: all that training on them needs to know of it.

    Attributes:
        codec: the model hash, hexadecimal.
        n_codebooks, codebook_size: of the codes.
        sample_rate, hop_length, packet_frames: as of `SpeechCodec`.
        speaker_levels: values that an entry of a speaker vector can have.
    """

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
        return cls(
            codec.model_hash.hex(),
            n_codebooks or codec.n_codebooks,
            codec.codebook_size,
            codec.sample_rate,
            codec.hop_length,
            codec.packet_frames,
            codec.n_speaker_levels,
        )

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
            self._codes = np.memmap(self.folder / "codes.u16", "<u2", "r").reshape(-1, facts.n_codebooks)
            voices = np.fromfile(self.folder / "voices.u16", "<u2").reshape(len(lines), -1).astype(np.int64)
            pitch = np.memmap(self.folder / "pitch.u8", np.uint8, "r")
            levels = np.fromfile(self.folder / "levels.u8", np.uint8)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AudioVQError(f"the codes in {self.folder} are damaged ({error}): delete that folder") from None
        self.utterances = []
        start = packet = 0
        for line, voice in zip(lines, voices, strict=True):
            stop, packet_stop = start + line["n_frames"], packet - (-line["n_frames"] // facts.packet_frames)
            arrays: dict[str, Any] = {"codes": self._codes[start:stop].T, "pitch": pitch[start:stop], "voice": voice}
            about = {name: line[name] for name in _ABOUT if name != "n_frames"}
            self.utterances.append(CodedUtterance(**about, **arrays, levels=levels[packet:packet_stop]))
            start, packet = stop, packet_stop
        if (start, start, packet) != (len(self._codes), len(pitch), len(levels)):
            raise AudioVQError(f"the codes in {self.folder} do not match their index: delete that folder")

    @property
    def tables(self) -> Tensor | None:
        """The codec's codebooks (K, V, D) float32; None where they are not known."""
        import torch

        path = self.folder / "codebooks.npy"
        return torch.from_numpy(np.load(path).astype(np.float32)) if path.is_file() else None

    def split(self, name: str) -> list[CodedUtterance]:
        """The utterances of one split, in the corpus's order.

        Raises:
            AudioVQError: when there are none.
        """
        found = [u for u in self.utterances if u.split == name]
        if not found:
            raise AudioVQError(
                f"none of the {len(self.utterances)} recordings is in the split {name!r} (codes: {self.folder}); of a "
                "plain folder's files one in 20 is test and one validation: add recordings"
            )
        return found


class _CodesWriter:
    """Appends utterances to a hidden folder beside ``folder``; an interrupted one is continued.

    Raises:
        AudioVQError: when another process is writing the same codes.
    """

    def __init__(self, folder: Path, facts: CodesFacts) -> None:
        self.folder, self.facts = folder, facts
        self.path = folder.with_name(f".{folder.name}.partial")
        self.path.mkdir(parents=True, exist_ok=True)
        import fcntl

        self._lock = (self.path / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise AudioVQError(f"another process is writing the codes in {folder}: wait for it") from None
        self.lines = self._read_lines()
        self._listing = (self.path / "utterances.jsonl").open("w", encoding="utf-8")
        self._listing.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines)
        self._files = {name: (self.path / name).open("ab") for name in self._sizes(self.lines)}
        for name, size in self._sizes(self.lines).items():
            self._files[name].truncate(size)

    def _read_lines(self) -> list[dict[str, Any]]:
        """Utterances that were written completely."""
        lines: list[dict[str, Any]] = []
        try:
            texts = (self.path / "utterances.jsonl").read_text(encoding="utf-8").splitlines()
            there = {name: (self.path / name).stat().st_size for name in self._sizes([])}
        except OSError:
            return []
        for text in texts:
            try:
                lines.append(json.loads(text))
            except ValueError:  # cut off
                break
        while lines and any(there[name] < size for name, size in self._sizes(lines).items()):
            lines.pop()
        return lines

    def _sizes(self, lines: Sequence[dict[str, Any]]) -> dict[str, int]:
        """Bytes of each file with these utterances."""
        frames = sum(line["n_frames"] for line in lines)
        return {
            "codes.u16": 2 * self.facts.n_codebooks * frames,
            "voices.u16": 2 * sum(line["speaker_size"] for line in lines),
            "pitch.u8": frames,
            "levels.u8": sum(-(-line["n_frames"] // self.facts.packet_frames) for line in lines),
        }

    def add(self, utterance: CodedUtterance) -> None:
        """Append one utterance; it is listed when its arrays are in the files."""
        self._files["codes.u16"].write(np.ascontiguousarray(utterance.codes.T).astype("<u2").tobytes())
        self._files["voices.u16"].write(utterance.voice.astype("<u2").tobytes())
        self._files["pitch.u8"].write(utterance.pitch.astype(np.uint8).tobytes())
        self._files["levels.u8"].write(utterance.levels.astype(np.uint8).tobytes())
        for file in self._files.values():
            file.flush()
        line = {name: getattr(utterance, name) for name in _ABOUT} | {"speaker_size": len(utterance.voice)}
        self.lines.append(line)
        self._listing.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._listing.flush()

    def close(self) -> None:
        """Close the files; what is written stays for the next call."""
        for file in (*self._files.values(), self._listing, self._lock):
            file.close()

    def finish(self, tables: np.ndarray | None = None) -> None:
        """Write the index and the codebooks, and give the folder its name; `AudioVQError` when nothing was written."""
        if not self.lines:
            raise AudioVQError("the corpus has no utterances to encode: choose another")
        index = {"facts": asdict(self.facts), "utterances": self.lines}
        if tables is not None:
            np.save(self.path / "codebooks.npy", tables.astype(np.float16))
        (self.path / "index.json").write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")
        self.close()
        (self.path / "utterances.jsonl").unlink()
        (self.path / "lock").unlink()
        os.rename(self.path, self.folder)


def write_codes(
    folder: str | Path, codec: SpeechCodec, utterances: Sequence[Utterance], progress: Progress | None = None
) -> CodesCache:
    """Code every utterance with all codebooks, each as a file of its own.

    The folder appears when all are done; called again after an interruption, the rest is coded.

    Raises:
        AudioVQError: for an utterance that cannot be coded, and when there is none.
    """

    def coded(n_done: int) -> Iterator[CodedUtterance]:
        for done, utterance in enumerate(utterances[n_done:], n_done + 1):
            yield _code(codec, utterance)
            if progress is not None:
                progress(done, len(utterances))

    return write_coded(folder, CodesFacts.of(codec), coded, _tables(codec))


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
    writer = _CodesWriter(Path(folder), facts)
    try:
        for utterance in utterances(len(writer.lines)):
            writer.add(utterance)
        writer.finish(tables)
    finally:
        writer.close()
    return CodesCache(folder)


def _tables(codec: SpeechCodec) -> np.ndarray:
    """A codec's codebooks (K, V, D), those of fewer dimensions completed with zeros."""
    quantizer = codec.quantizer
    tables = [level.table().detach().cpu().numpy() for level in (quantizer.content, *quantizer.detail.levels)]
    dim = max(table.shape[1] for table in tables)
    return np.stack([np.pad(table, ((0, 0), (0, dim - table.shape[1]))) for table in tables])


def _code(codec: SpeechCodec, utterance: Utterance) -> CodedUtterance:
    samples = utterance.load()
    stream = codec.encoder_stream(codec.n_codebooks)
    packets = stream.push(samples) + stream.finish()
    assert stream.speaker is not None
    codes = np.concatenate([packet.codes for packet in packets], axis=1)
    pitch, levels = np.concatenate([p.pitch for p in packets]), np.array([p.level for p in packets])
    about = (utterance.id, utterance.speaker, utterance.language, utterance.split)
    return CodedUtterance(*about, codes, stream.speaker, len(samples), pitch, levels)


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
        AudioVQError: see `open_corpus` and `write_codes`; for shards of another codec, or beside other corpora.
    """
    from audiovq.data.corpora import open_corpora

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
    return write_codes(folder, codec, utterances, progress)


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
