"""Corpora by name: one call that opens any of them, or several joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from audiovq.data.shards import MANIFEST, open_shards
from audiovq.data.utterance import SPLITS, Utterance
from audiovq.errors import AudioVQError
from audiovq.io import cache_dir

Loader = Callable[..., list[Utterance]]
"""``loader(root, split, **options)``; a split of None is all of them."""


def _debian_speech(root: Path, split: str | None) -> list[Utterance]:
    return _open_prepared(root, split, "recipes/debian_speech/prepare.py")


def _kokoro_speech(root: Path, split: str | None) -> list[Utterance]:
    return _open_prepared(root, split, "recipes/kokoro_speech/prepare.py FOLDER")


def _open_prepared(root: Path, split: str | None, recipe: str) -> list[Utterance]:
    if not (root / MANIFEST).is_file():
        raise AudioVQError(f"no prepared corpus in {root}: run `python {recipe} --out {root}`")
    return open_shards(root, split)


_LOADERS = {
    "packed": "audiovq.data.packed:open_utterances",
    "debian_speech": "audiovq.data.corpora:_debian_speech",
    "kokoro_speech": "audiovq.data.corpora:_kokoro_speech",
    "vctk": "audiovq.data.standard:open_vctk",
    "librispeech": "audiovq.data.standard:open_librispeech",
    "ljspeech": "audiovq.data.standard:open_ljspeech",
    "folder": "audiovq.data.folder:open_folder",
}
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
        split: "train", "validation", "test", "unseen", or None for all.
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
        raise AudioVQError(f"no split {split!r}: there are {', '.join(SPLITS)}")
    name = str(corpus)
    if name in _LOADERS:
        module, _, function = _LOADERS[name].partition(":")
        loader: Loader = getattr(import_module(module), function)
        usual = cache_dir() / ("packed" if name == "packed" else f"data/{name}")
        folder = Path(root).expanduser() if root is not None else usual
        return loader(folder, split, **options)
    path = Path(name).expanduser()
    if not path.is_dir():
        raise AudioVQError(f"no corpus {name!r}: name one of {', '.join(NAMES)} or a folder")
    if (path / MANIFEST).is_file():
        return open_shards(path, split)
    from audiovq.data.folder import open_folder

    return open_folder(path, split, **options)


def open_corpora(corpora: Sequence[str | Path | Mapping[str, Any]], split: str | None = "train") -> list[Utterance]:
    """The utterances of several corpora joined, in their order."""
    return [utterance for corpus in corpora for utterance in open_corpus(corpus, split)]
