"""Corpora by name: one call that opens any of them, or several joined; folders, VCTK, LibriSpeech and LJSpeech."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from audiovq.data.utterance import MANIFEST, SPLITS, FileReader, Utterance, open_shards, seconds_of, split_of
from audiovq.errors import AudioVQError
from audiovq.io import cache_dir, shown

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def _transcript(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise AudioVQError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def _utterances(
    rows: Iterable[tuple[Path, str, str, str, str | Path]], corpus: str, licence: str, split: str | None, language: str
) -> list[Utterance]:
    """Utterances of (path, id, speaker, split, text or its file) rows; only those of the split are looked at closer."""
    utterances = []
    for path, id, speaker, part, text in rows:
        if split in (None, part):
            if isinstance(text, Path):
                text = _transcript(text)
            about = (id, f"{corpus}/{speaker}", language, text.strip() or None, corpus, licence, part)
            utterances.append(Utterance(*about, seconds=seconds_of(path), reader=FileReader(str(path))))
    return utterances


def open_folder(
    root: Path, split: str | None = None, language: str = "und", licence: str = "unknown", unseen: Sequence[str] = ()
) -> list[Utterance]:
    """The recordings of a folder, split by `split_of` their file names; ``unseen`` speakers have a split of their own.

    The first folder below ``root`` is the speaker, whatever lies deeper; files in ``root`` itself are one more
    speaker, named after it.

    Raises:
        AudioVQError: when there is no such folder, no recording in it, a file cannot be decoded, or an unseen speaker
            is not there.
    """
    if not root.is_dir():
        raise AudioVQError(f"no folder {root}: expected a folder of recordings speaker/utterance.wav")
    visible = [path for path in sorted(root.rglob("*")) if not path.name.startswith(".")]
    files = [path for path in visible if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not files:
        raise AudioVQError(f"no recordings in {root}: expected speaker/utterance with {', '.join(SUFFIXES)}")
    speakers = {path: (*path.relative_to(root).parts[:-1], root.name)[0] for path in files}
    unknown = sorted(set(unseen) - set(speakers.values()))
    if unknown:
        raise AudioVQError(f"no speaker {unknown[0]!r} in {root}")
    rows = []
    for path, speaker in speakers.items():
        part = "unseen" if speaker in unseen else split_of(path.name)
        rows.append((path, shown(path.relative_to(root).as_posix()), shown(speaker), part, path.with_suffix(".txt")))
    return _utterances(rows, shown(root.name), licence, split, language)


LIBRISPEECH_SUBSETS = {
    "train": ("train-clean-100", "train-clean-360", "train-other-500"),
    "validation": ("dev-clean", "dev-other"),
    "test": ("test-clean", "test-other"),
}


def open_vctk(root: Path, split: str | None = None, mic: str = "mic2", unseen: Sequence[str] = ()) -> list[Utterance]:
    """VCTK 0.92: ``root/VCTK-Corpus-0.92/{txt,wav48_silence_trimmed}``. Split by `split_of` the file names.

    ``mic`` is "mic1" or "mic2"; ``unseen`` speakers ("p225") are kept for the split "unseen".

    Raises:
        AudioVQError: when the corpus is not there.
    """
    folder, rows = root / "VCTK-Corpus-0.92", []
    for text in sorted((folder / "txt").glob("*/*.txt")):
        speaker = text.parent.name
        path = folder / "wav48_silence_trimmed" / speaker / f"{text.stem}_{mic}.flac"
        if path.is_file():  # some microphones have gaps
            part = "unseen" if speaker in unseen else split_of(path.name)
            rows.append((path, f"vctk/{path.stem}", speaker, part, text))
    if not rows:
        raise AudioVQError(f"no VCTK 0.92 in {root}: set root to the folder that contains {folder.name}")
    return _utterances(rows, "vctk", "CC-BY-4.0", split, "en")


def open_librispeech(
    root: Path, split: str | None = None, subsets: Mapping[str, Sequence[str]] | None = None
) -> list[Utterance]:
    """LibriSpeech: ``root/LibriSpeech/{train-clean-100,dev-clean,...}``, split as its authors did.

    ``subsets`` of the corpus make up each split; by default those that are there.

    Raises:
        AudioVQError: when a named subset, or any subset of the split, is not there.
    """
    folder, chosen = root / "LibriSpeech", LIBRISPEECH_SUBSETS if subsets is None else subsets
    names = [(part, name) for part in chosen if split in (None, part) for name in chosen[part]]
    present = [(part, name) for part, name in names if (folder / name).is_dir()]
    if names and (not present or (subsets is not None and present != names)):
        expected = f"{'one' if subsets is None else 'all'} of {', '.join(name for _, name in names)}"
        raise AudioVQError(f"no LibriSpeech in {root}: expected {expected} in {folder}")
    rows = []
    for part, name in present:
        transcripts = [file.read_text(encoding="utf-8") for file in (folder / name).glob("*/*/*.trans.txt")]
        texts = dict(line.split(" ", 1) for transcript in transcripts for line in transcript.splitlines())
        for path in sorted((folder / name).glob("*/*/*.flac"), key=lambda path: path.stem):
            rows.append((path, f"librispeech/{path.stem}", path.parts[-3], part, texts.get(path.stem, "")))
    return _utterances(rows, "librispeech", "CC-BY-4.0", split, "en")


def open_ljspeech(root: Path, split: str | None = None) -> list[Utterance]:
    """LJSpeech 1.1: ``root/LJSpeech-1.1/{metadata.csv,wavs}``, one voice. Split by `split_of` the file names.

    Raises:
        AudioVQError: when the corpus is not there.
    """
    folder = root / "LJSpeech-1.1"
    if not (folder / "metadata.csv").is_file():
        raise AudioVQError(f"no LJSpeech 1.1 in {root}: set root to the folder that contains {folder.name}")
    lines = (line.split("|") for line in (folder / "metadata.csv").read_text(encoding="utf-8").splitlines())
    paths = [(folder / "wavs" / f"{line[0]}.wav", line[-1]) for line in lines]
    rows = [(path, f"ljspeech/{path.stem}", "lj", split_of(path.name), text) for path, text in paths]
    return _utterances(rows, "ljspeech", "public domain", split, "en")


def _open_prepared(recipe: str, root: Path, split: str | None) -> list[Utterance]:
    if not (root / MANIFEST).is_file():
        raise AudioVQError(f"no prepared corpus in {root}: run `python {recipe} --out {root}`")
    return open_shards(root, split)


def _open_packed(root: Path, split: str | None, **options: Any) -> list[Utterance]:
    from audiovq.data.packed import open_utterances  # which imports torch

    return open_utterances(root, split, **options)


_LOADERS: dict[str, Callable[..., list[Utterance]]] = {
    "packed": _open_packed,
    "debian_speech": partial(_open_prepared, "recipes/debian_speech/prepare.py"),
    "kokoro_speech": partial(_open_prepared, "recipes/kokoro_speech/prepare.py FOLDER"),
    "vctk": open_vctk,
    "librispeech": open_librispeech,
    "ljspeech": open_ljspeech,
    "folder": open_folder,
}
"""``loader(root, split, **options)``; a split of None is all of them."""
NAMES = tuple(_LOADERS)


def open_corpus(
    corpus: str | Path | Mapping[str, Any],
    split: str | None = "train",
    root: str | Path | None = None,
    languages: Sequence[str] | None = None,
    **options: Any,
) -> list[Utterance]:
    """The utterances of one corpus.

    Args:
        corpus: one of `NAMES`; or a path: of a prepared corpus (it has a ``manifest.jsonl``) or of a plain folder
            ``speaker/utterance.wav``; or a mapping ``{name: ..., root: ..., ...}`` with the arguments of this function.
        split: one of `audiovq.data.utterance.SPLITS`, or None for all.
        root: the corpus's folder; ``<cache>/data/<name>`` by default.
        languages: the only ones that are taken, as the corpus names them ("en"); None takes all.
        options: of that corpus's loader.

    Raises:
        AudioVQError: for a name, split or folder that does not exist, or when nothing is in these languages.
    """
    if languages is not None:
        found = open_corpus(corpus, split, root, **options)
        taken = [utterance for utterance in found if utterance.language in languages]
        if found and not taken:
            there = sorted({utterance.language for utterance in found})
            raise AudioVQError(f"{corpus} has nothing in {', '.join(languages)}: its languages are {', '.join(there)}")
        return taken
    if isinstance(corpus, Mapping):
        arguments = {str(key): value for key, value in corpus.items()}
        if "name" not in arguments:
            raise AudioVQError(f"a corpus needs a name (one of {', '.join(NAMES)}), got {arguments}")
        return open_corpus(split=split, corpus=arguments.pop("name"), **{"root": root, **options, **arguments})
    if split is not None and split not in SPLITS:
        raise AudioVQError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    name = str(corpus)
    if name in _LOADERS:
        usual = cache_dir() / ("packed" if name == "packed" else f"data/{name}")
        return _LOADERS[name](usual if root is None else Path(root).expanduser(), split, **options)
    path = Path(name).expanduser()
    if not path.is_dir():
        raise AudioVQError(f"unknown corpus {name!r}; choose from {', '.join(NAMES)}, or give a folder")
    if (path / MANIFEST).is_file():
        return open_shards(path, split)
    return open_folder(path, split, **options)


def open_corpora(corpora: Sequence[str | Path | Mapping[str, Any]], split: str | None = "train") -> list[Utterance]:
    """The utterances of several corpora joined, in their order."""
    return [utterance for corpus in corpora for utterance in open_corpus(corpus, split)]
