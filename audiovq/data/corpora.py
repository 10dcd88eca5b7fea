"""Corpora by name: one call that opens any of them, or several joined; folders, VCTK, LibriSpeech and LJSpeech.

torchaudio.datasets knows the layouts and the transcripts of VCTK, LibriSpeech and LJSpeech; samples are read by
libsndfile, since torchaudio's own reading needs a further package. torchaudio is imported here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from audiovq.data.utterance import MANIFEST, SPLITS, FileReader, Utterance, open_shards, seconds_of, split_of
from audiovq.errors import AudioVQError
from audiovq.io import cache_dir, shown

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


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
    files = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not files:
        raise AudioVQError(f"no recordings in {root}: expected speaker/utterance with {', '.join(SUFFIXES)}")
    speakers = {path: (*path.relative_to(root).parts[:-1], root.name)[0] for path in files}
    unknown = sorted(set(unseen) - set(speakers.values()))
    if unknown:
        raise AudioVQError(f"no speaker {unknown[0]!r} in {root}")
    utterances = []
    for path, speaker in speakers.items():
        part = "unseen" if speaker in unseen else split_of(path.name)
        if split is None or part == split:
            text = path.with_suffix(".txt")
            utterances.append(
                Utterance(
                    id=shown(path.relative_to(root).as_posix()),
                    speaker=shown(f"{root.name}/{speaker}"),
                    language=language,
                    text=text.read_text(encoding="utf-8").strip() or None if text.is_file() else None,
                    source=root.name,
                    licence=licence,
                    split=part,
                    seconds=seconds_of(path),
                    reader=FileReader(str(path)),
                )
            )
    return utterances


LIBRISPEECH_SUBSETS = {
    "train": ("train-clean-100", "train-clean-360", "train-other-500"),
    "validation": ("dev-clean", "dev-other"),
    "test": ("test-clean", "test-other"),
}


def _datasets() -> ModuleType:
    try:
        import torchaudio.datasets
    except Exception as error:  # beside another build of torch it fails with whatever its loader met
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AudioVQError(
            f"this corpus needs torchaudio, which cannot be imported ({reason}): pip install 'audiovq[corpora]'"
        ) from None
    return torchaudio.datasets


def _index(make: Callable[[], Any], what: str, root: Path) -> Any:
    """What ``make`` makes of torchaudio's dataset, or one clear error."""
    try:
        return make()
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AudioVQError(f"no {what} in {root} ({reason}): set root to the folder that contains it") from None


def _utterances(
    rows: Iterable[tuple[Path, str, str | Callable[[], str]]],
    corpus: str,
    licence: str,
    split: str | None,
    split_for: Callable[[Path, str], str],
) -> list[Utterance]:
    """Utterances of (path, speaker, text) rows; only those of the split are looked at closer."""
    utterances = []
    for path, speaker, text in rows:
        part = split_for(path, speaker)
        if split is not None and part != split:
            continue
        utterances.append(
            Utterance(
                id=f"{corpus}/{path.stem}",
                speaker=f"{corpus}/{speaker}",
                language="en",
                text=(text if isinstance(text, str) else text()).strip() or None,
                source=corpus,
                licence=licence,
                split=part,
                seconds=seconds_of(path),
                reader=FileReader(str(path)),
            )
        )
    return utterances


def open_vctk(root: Path, split: str | None = None, mic: str = "mic2", unseen: Sequence[str] = ()) -> list[Utterance]:
    """VCTK 0.92: ``root/VCTK-Corpus-0.92/{txt,wav48_silence_trimmed}``. Split by `split_of` the file names.

    ``mic`` is "mic1" or "mic2"; ``unseen`` speakers ("p225") are kept for the split "unseen".

    Raises:
        AudioVQError: when the corpus is not there, or torchaudio does not import.
    """
    datasets = _datasets()
    dataset = _index(lambda: datasets.VCTK_092(str(root), mic_id=mic), "VCTK 0.92", root)
    audio, texts = Path(dataset._audio_dir), Path(dataset._txt_dir)

    def rows() -> Iterable[tuple[Path, str, Callable[[], str]]]:
        for speaker, number in dataset._sample_ids:
            path = audio / speaker / f"{speaker}_{number}_{mic}.flac"
            if path.is_file():  # some microphones have gaps
                yield path, speaker, (texts / speaker / f"{speaker}_{number}.txt").read_text

    def split_for(path: Path, speaker: str) -> str:
        return "unseen" if speaker in unseen else split_of(path.name)

    return _utterances(rows(), "vctk", "CC-BY-4.0", split, split_for)


def open_librispeech(
    root: Path, split: str | None = None, subsets: Mapping[str, Sequence[str]] | None = None
) -> list[Utterance]:
    """LibriSpeech: ``root/LibriSpeech/{train-clean-100,dev-clean,...}``, split as its authors did.

    ``subsets`` of the corpus make up each split; by default those that are there.

    Raises:
        AudioVQError: when a named subset, or any subset of the split, is not there, or torchaudio does not import.
    """
    datasets = _datasets()
    folder = root / "LibriSpeech"
    chosen = subsets if subsets is not None else LIBRISPEECH_SUBSETS
    parts = [part for part in chosen if split in (None, part)]
    names = [(part, name) for part in parts for name in chosen[part]]
    if subsets is None:
        present = [(part, name) for part, name in names if (folder / name).is_dir()]
        if names and not present:
            expected = ", ".join(name for _, name in names)
            raise AudioVQError(f"no LibriSpeech in {root}: expected one of {expected} in {folder}")
        names = present

    def read(part: str, name: str) -> list[Utterance]:
        dataset = datasets.LIBRISPEECH(str(root), url=name)
        metadata = (dataset.get_metadata(index) for index in range(len(dataset)))
        rows = ((folder / row[0], str(row[3]), row[2]) for row in metadata)
        return _utterances(rows, "librispeech", "CC-BY-4.0", part, lambda path, speaker: part)

    return _index(lambda: [u for part, name in names for u in read(part, name)], "LibriSpeech", root)


def open_ljspeech(root: Path, split: str | None = None) -> list[Utterance]:
    """LJSpeech 1.1: ``root/LJSpeech-1.1/{metadata.csv,wavs}``, one voice. Split by `split_of` the file names.

    Raises:
        AudioVQError: when the corpus is not there, or torchaudio does not import.
    """
    datasets = _datasets()
    dataset = _index(lambda: datasets.LJSPEECH(str(root)), "LJSpeech 1.1", root)
    rows = ((Path(dataset._path) / f"{row[0]}.wav", "lj", row[-1]) for row in dataset._flist)
    return _utterances(rows, "ljspeech", "public domain", split, lambda path, who: split_of(path.name))


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
