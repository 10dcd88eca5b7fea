"""A corpus as codes on disk, coded once: flat memory-mapped arrays, found by the codec's and the corpus's hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.data.utterance import CodedUtterance, Utterance
from audiovq.errors import AudioVQError
from audiovq.io import cache_dir

if TYPE_CHECKING:
    from audiovq.speech.codec import SpeechCodec

Progress = Callable[[int, int], None]
TOKENS = "tokens"
"""The name that shards of codes go by in a list of corpora."""


class CodesCache:
    """A folder with ``codes.u16`` (frames of all utterances end to end, K values a frame, little-endian),
    ``voices.u16`` (S values an utterance) and ``index.json``.

    Raises:
        AudioVQError: when the folder is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            index = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
            self.codec: str = index["codec"]
            self.n_codebooks, self.codebook_size = int(index["n_codebooks"]), int(index["codebook_size"])
            lines = index["utterances"]
            self._codes = np.memmap(self.folder / "codes.u16", "<u2", "r").reshape(-1, self.n_codebooks)
            voices = np.fromfile(self.folder / "voices.u16", "<u2").reshape(len(lines), -1).astype(np.int64)
        except (OSError, ValueError, KeyError) as error:
            raise AudioVQError(f"the codes in {self.folder} are damaged ({error}): delete that folder") from None
        self.utterances = []
        start = 0
        for line, voice in zip(lines, voices, strict=True):
            stop = start + line["n_frames"]
            about = {name: line[name] for name in ("id", "speaker", "language", "split", "n_samples")}
            self.utterances.append(CodedUtterance(**about, codes=self._codes[start:stop].T, voice=voice))
            start = stop
        if start != len(self._codes):
            raise AudioVQError(f"the codes in {self.folder} do not fit their index: delete that folder")

    def split(self, name: str) -> list[CodedUtterance]:
        """The utterances of one split, in the corpus's order.

        Raises:
            AudioVQError: when there are none.
        """
        found = [u for u in self.utterances if u.split == name]
        if not found:
            raise AudioVQError(
                f"none of the {len(self.utterances)} recordings is of the split {name!r} (codes: {self.folder}); of a "
                "plain folder's files one in 20 is test and one validation, by its name: code more recordings"
            )
        return found


def write_codes(
    folder: str | Path, codec: SpeechCodec, utterances: Sequence[Utterance], progress: Progress | None = None
) -> CodesCache:
    """Code every utterance with all codebooks, each as a file of its own; the folder appears when all are done.

    Raises:
        AudioVQError: for an utterance that cannot be coded, and when there is none.
    """

    def coded() -> Iterator[CodedUtterance]:
        for done, utterance in enumerate(utterances, 1):
            codes, voice, n_samples = _code(codec, utterance)
            about = (utterance.id, utterance.speaker, utterance.language, utterance.split)
            yield CodedUtterance(*about, codes, voice, n_samples)
            if progress is not None:
                progress(done, len(utterances))

    return write_coded(folder, codec.model_hash.hex(), codec.n_codebooks, codec.codebook_size, coded())


def write_coded(
    folder: str | Path, codec: str, n_codebooks: int, codebook_size: int, utterances: Iterable[CodedUtterance]
) -> CodesCache:
    """Keep codes that are there or come one by one; the folder appears when all are written.

    Args:
        folder: to be made.
        codec: hash of the model, hexadecimal.
        n_codebooks, codebook_size: of the codes.
        utterances: in any number but none.

    Raises:
        AudioVQError: when there is none.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        lines: list[dict[str, Any]] = []
        with (temporary / "codes.u16").open("wb") as codes_file, (temporary / "voices.u16").open("wb") as voices_file:
            for utterance in utterances:
                codes_file.write(np.ascontiguousarray(utterance.codes.T).astype("<u2").tobytes())
                voices_file.write(utterance.voice.astype("<u2").tobytes())
                names = ("id", "speaker", "language", "split", "n_frames", "n_samples")
                lines.append({name: getattr(utterance, name) for name in names})
        if not lines:
            raise AudioVQError("there are no utterances to code: name another corpus")
        index = {"codec": codec, "n_codebooks": n_codebooks, "codebook_size": codebook_size, "utterances": lines}
        (temporary / "index.json").write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")
        if not (folder / "index.json").exists():  # another process may have been faster
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return CodesCache(folder)


def _code(codec: SpeechCodec, utterance: Utterance) -> tuple[np.ndarray, np.ndarray, int]:
    samples = utterance.load()
    stream = codec.encoder_stream(codec.n_codebooks)
    packets = stream.push(samples) + stream.finish()
    assert stream.speaker is not None
    return np.concatenate([packet.codes for packet in packets], axis=1), stream.speaker, len(samples)


def cached_codes(
    codec: SpeechCodec,
    corpora: Sequence[str | Path | dict[str, Any]],
    root: str | Path | None = None,
    progress: Progress | None = None,
) -> CodesCache:
    """The codes of corpora (all splits): from ``<cache>/codes``, or made and kept there.

    The folder's name holds the codec's hash and one over what the corpora list (their utterances, splits, speakers and
    lengths) and which codes the codec prefers. Another codec or another preparation thus never meets old codes.

    Of ``{name: tokens, root: DIR}`` the codes are those of the shards in DIR, as many codebooks as these have.

    Raises:
        AudioVQError: see `open_corpus` and `write_codes`; for shards of another codec, or beside other corpora.
    """
    from audiovq.data.corpora import open_corpora

    folder = Path(root or cache_dir() / "codes")
    for corpus in corpora:
        if isinstance(corpus, Mapping) and corpus.get("name") == TOKENS:
            if len(corpora) > 1:
                raise AudioVQError("shards of codes go alone, not with other corpora: tokenize these, too")
            return _codes_of_shards(codec, corpus, folder)
    utterances = open_corpora(corpora, None)
    listing = "\n".join(f"{u.id}\t{u.speaker}\t{u.language}\t{u.split}\t{u.n_samples}\t{u.source}" for u in utterances)
    data = hashlib.sha256(listing.encode() + _preferences(codec)).hexdigest()[:8]
    folder = folder / f"{codec.model_hash.hex()}-{data}"
    if (folder / "index.json").is_file():
        return CodesCache(folder)
    return write_codes(folder, codec, utterances, progress)


def _preferences(codec: SpeechCodec) -> bytes:
    """What the bits of codes cost, which the codec's hash leaves out; nothing where they are free."""
    costs = [level.codebook.costs() for level in codec.quantizer.levels]  # type: ignore[union-attr,operator]
    return b"".join(cost.numpy().tobytes() for cost in costs if cost is not None)


def _codes_of_shards(codec: SpeechCodec, corpus: Mapping[str, Any], caches: Path) -> CodesCache:
    """The codes of shards as flat arrays, which training reads anywhere."""
    from audiovq.data.tokens import TokenShards

    if set(corpus) != {"name", "root"}:
        raise AudioVQError(f"shards of codes are told by their root alone: data.root=DIR, not {dict(corpus)}")
    shards = TokenShards(Path(str(corpus["root"])).expanduser(), codec)
    content = hashlib.sha256("".join(shard["sha256"] for shard in shards.manifest["shards"]).encode())
    folder = caches / f"{codec.model_hash.hex()}-shards-{content.hexdigest()[:8]}"
    if (folder / "index.json").is_file():
        return CodesCache(folder)
    model = shards.model
    return write_coded(folder, model.codes_hash, model.n_codebooks, model.codebook_size, shards)
