"""Sentences to speak, from Debian packages: examples of WordNet, fortunes, a handbook."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGES = ("wordnet-base", "fortunes-es", "fortunes-it", "fortunes-br", "debian-reference-fr")

_UNSPEAKABLE = re.compile(r"[\d@#$%^*_=<>/\\|{}\[\]()~`+&«»]|\b[A-Z]{2,}\b")
_ENGLISH = re.compile(r"\b(?:the|their|is|with)\b")  # what nobody has translated
_EDGES = " -\"'“”"


def collect(root: Path) -> dict[str, list[str]]:
    """Sentences by language, sorted and without repetition, of the packages unpacked under ``root``."""
    share = root / "usr/share"
    fortunes = share / "games/fortunes"
    sources = {
        "en": wordnet_examples(share / "wordnet"),
        "es": fortune_sentences(fortunes.glob("es/*.fortunes")),
        "it": fortune_sentences(path for path in fortunes.glob("it/*") if not path.suffix),
        "fr": paragraph_sentences(share / "debian-reference/debian-reference.fr.txt.gz"),
        "pt": fortune_sentences([fortunes / "brasil"]),
    }
    return {language: sorted(set(sentences)) for language, sentences in sources.items()}


def is_speakable(sentence: str) -> bool:
    """Whether a sentence is of ordinary length and free of digits, signs and abbreviations in capitals."""
    return 5 <= len(sentence.split()) <= 24 and len(sentence) <= 150 and not _UNSPEAKABLE.search(sentence)


def split_sentences(text: str) -> Iterator[str]:
    """The speakable sentences of a text that begin with a capital letter and end with a full stop or such a sign."""
    for part in re.split(r"(?<=[.!?])\s+", " ".join(text.split())):
        sentence = part.strip(_EDGES)
        if sentence[:1].isupper() and sentence[-1] in ".!?" and is_speakable(sentence):
            yield sentence


def wordnet_examples(folder: Path) -> Iterator[str]:
    """The quoted examples of WordNet's glosses, as sentences."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in _read(folder / f"data.{part}").splitlines():
            if line.startswith("  "):  # the licence
                continue
            for example in re.findall(r'"([^"]+)"', line.partition("|")[2]):
                sentence = example.strip(_EDGES).rstrip(".;,")
                yield from split_sentences(
                    f"{sentence[:1].upper()}{sentence[1:]}" + ("" if sentence[-1:] in "!?" else ".")
                )


def fortune_sentences(paths: Iterable[Path]) -> Iterator[str]:
    """Sentences of fortune files: entries between lines with a per cent sign, each with its author after two dashes."""
    for path in sorted(paths):
        for entry in re.split(r"\n%\n", _read(path)):
            yield from split_sentences(entry.partition("--")[0])


def paragraph_sentences(path: Path) -> Iterator[str]:
    """Sentences of a compressed text whose paragraphs are separated by empty lines."""
    if path.is_file():
        for paragraph in re.split(r"\n\s*\n", gzip.decompress(path.read_bytes()).decode("utf-8")):
            yield from (sentence for sentence in split_sentences(paragraph) if not _ENGLISH.search(sentence))


def _read(path: Path) -> str:
    content = path.read_bytes() if path.is_file() else b""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")
