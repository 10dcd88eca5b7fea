"""The recordings of the Debian packages: the speaker, the language and the text of each file."""

from __future__ import annotations

import gzip
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ASTERISK = ("en", "es", "fr", "it", "ru")
PACKAGES = (
    *(f"asterisk-core-sounds-{language}-g722" for language in ASTERISK),
    *(f"asterisk-core-sounds-{language}" for language in ASTERISK),
    "tuxpaint-stamps-default",
    "fillets-ng-data",
    "fillets-ng-data-cs",
    "fillets-ng-data-nl",
    "ktuberling-data",
    "festvox-ru",
    "klettres-data",
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A recording in an unpacked package.

    Attributes:
        phones: end time in seconds and symbol of each phone, where the package has them.
        unseen: of a speaker that is kept out of training, validation and test.
    """

    path: Path
    id: str
    speaker: str
    language: str
    text: str | None
    source: str
    licence: str
    unseen: bool = False
    phones: tuple[tuple[float, str], ...] | None = None


def all_sources(root: Path) -> Iterator[SourceFile]:
    """Every file that may hold speech, under the tree into which the packages were unpacked."""
    for source in (asterisk, festvox, fillets, klettres, ktuberling, tuxpaint):
        yield from source(root)


# Asterisk: telephone prompts, one voice for each language; the English voice reads the Spanish ones too.

_ASTERISK_SPEAKER = {"en": "allison", "es": "allison", "fr": "june", "it": "carlo", "ru": "ivrvoice"}
_ASTERISK_LICENCE = {"it": "CC-BY-3.0", "ru": "CC-BY-3.0"}


def asterisk(root: Path) -> Iterator[SourceFile]:
    for language in ASTERISK:
        texts = asterisk_texts(root, language)
        sounds = root / "usr/share/asterisk/sounds"
        for path in sorted(sounds.glob(f"{language}_*/**/*.g722")):
            _voice, _, name = path.relative_to(sounds).with_suffix("").as_posix().partition("/")
            text = texts.get(name)
            if name.startswith("silence/") or (text or "").startswith(("[", "(", "<")):
                continue  # tones, music, silence: the transcript describes them in brackets
            yield SourceFile(
                path=path,
                id=f"asterisk-{language}/{name}",
                speaker=f"asterisk-{_ASTERISK_SPEAKER[language]}",
                language=language,
                text=text,
                source=f"asterisk-core-sounds-{language}-g722",
                licence=_ASTERISK_LICENCE.get(language, "CC-BY-SA-3.0"),
            )


def asterisk_texts(root: Path, language: str) -> dict[str, str]:
    """Transcripts by file name; lines are ``name: text``."""
    path = root / f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
    texts = {}
    if path.is_file():
        for line in gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines():
            name, separator, text = line.partition(":")
            if separator and not line.startswith(";"):
                texts[name.strip()] = text.strip().strip("“”")
    return texts


# Festvox: sentences of a novel by one man, with phone times.

_FESTVOX = "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
_FESTVOX_LINE = re.compile(r'^\(\s*(\S+)\s+"(.*)"\s*\)$', re.MULTILINE)


def festvox(root: Path) -> Iterator[SourceFile]:
    folder = root / _FESTVOX
    texts = festvox_texts(folder)
    for path in sorted((folder / "wav").glob("*.wav")):
        yield SourceFile(
            path=path,
            id=f"festvox-ru/{path.stem}",
            speaker="festvox-ru",
            language="ru",
            text=texts.get(path.stem),
            source="festvox-ru",
            licence="BSD-like (festvox-ru)",
            phones=read_label(folder / "lab" / f"{path.stem}.lab"),
        )


def festvox_texts(folder: Path) -> dict[str, str]:
    """Transcripts by file name; a plus before a stressed vowel is left out."""
    path = folder / "etc" / "txt.done.data"
    content = path.read_text(encoding="utf-8") if path.is_file() else ""
    return {name: text.replace("+", "").strip() for name, text in _FESTVOX_LINE.findall(content)}


def read_label(path: Path) -> tuple[tuple[float, str], ...] | None:
    """End times in seconds and symbols of a label file of festvox: after a line ``#``, lines ``end 125 symbol``."""
    if not path.is_file():
        return None
    _header, _, body = path.read_text(encoding="utf-8").partition("#\n")
    fields = [line.split() for line in body.splitlines() if line.strip()]
    return tuple((float(end), symbol) for end, _colour, symbol in fields)


# Fish Fillets: acted dialogues. The big fish (v), the small fish (m) and some small parts.

_FISH = {"m": "small", "v": "big"}
_FONTS = {"font_small": "m", "font_big": "v"}
_DIALOG = re.compile(r'dialogId\(\s*"([^"]*)"\s*,\s*"([^"]*)"[^\n]*\)\s*dialogStr\(\s*"((?:[^"\\]|\\.)*)"', re.DOTALL)


def fillets(root: Path) -> Iterator[SourceFile]:
    for language in ("cs", "nl"):
        dialogs = fillets_dialogs(root, language)
        for path in sorted((root / "usr/share/games/fillets-ng/sound").glob(f"*/{language}/*.ogg")):
            level, name = path.parts[-3], path.stem
            font, text = dialogs.get((level, name)) or dialogs.get(("share", name)) or ("", None)
            parts = name.split("-")
            role = next((part for part in parts[:2] if part in _FISH), None) or _FONTS.get(font)
            if role is None and text is None:
                continue  # effects have no subtitle
            part = _FISH[role] if role else "-".join(parts[:-1]) if len(parts) > 1 else level
            if not role and parts[0].isdigit():
                part = f"{level}-{part}"
            yield SourceFile(
                path=path,
                id=f"fillets-{language}/{level}/{name}",
                speaker=f"fillets-{language}-{part}",
                language=language,
                text=text,
                source=f"fillets-ng-data-{language}",
                licence="GPL-2",
            )


def fillets_dialogs(root: Path, language: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Font (each part has its own) and subtitle, by level and file name."""
    dialogs = {}
    for path in sorted((root / "usr/share/games/fillets-ng/script").glob(f"*/*dialogs_{language}.lua")):
        for name, font, text in _DIALOG.findall(path.read_text(encoding="utf-8")):
            dialogs[path.parent.name, name] = (font, re.sub(r"\\(.)", r"\1", text).strip())
    return dialogs


# KLettres: letters and syllables, one speaker for each language or region; corrections.json names the second ones.

# Arabic and Hungarian: all, or most, of their files are reserved. Danish: a man, as is the unseen Danish speaker of
# Tux Paint; their embeddings differ (cosine .67-.76), but letters are too little to be sure.
_KLETTRES_LEFT_OUT = ("ar", "da", "hu")
_SOUND = re.compile(r'<sound\s+name="([^"]*)"\s+file="([^"]*)"')


def klettres(root: Path) -> Iterator[SourceFile]:
    folder = root / "usr/share/klettres"
    for path in sorted(folder.glob("*/*/*.ogg")):
        region, kind, _name = path.relative_to(folder).parts
        if region in _KLETTRES_LEFT_OUT:
            continue
        yield SourceFile(
            path=path,
            id=f"klettres-{region}/{kind}/{path.stem}",
            speaker=f"klettres-{region}",
            language=region.partition("_")[0],
            text=klettres_texts(folder / region).get(path.relative_to(folder).as_posix()),
            source="klettres-data",
            licence="GPL-2+",
        )


@cache
def klettres_texts(folder: Path) -> dict[str, str]:
    """The letter or syllable of each file, by its path under the folder of all languages."""
    path = folder / "sounds.xml"
    content = path.read_text(encoding="utf-8") if path.is_file() else ""
    return {file: html.unescape(text).strip() for text, file in _SOUND.findall(content)}


# KTuberling: single words, one voice for each language.


def ktuberling(root: Path) -> Iterator[SourceFile]:
    sounds = root / "usr/share/ktuberling/sounds"
    for path in sorted(path for path in sounds.glob("*/*") if path.suffix in (".ogg", ".wav", ".opus")):
        folder = path.parent.name
        language = folder.partition("@")[0]  # sr, sr@latin ... are the same recordings
        yield SourceFile(
            path=path,
            id=f"ktuberling-{folder}/{path.stem}",
            speaker=f"ktuberling-{language}",
            language=language,
            text=None,
            source="ktuberling-data",
            licence="GPL-2+",
        )


# Tux Paint: descriptions of pictures, one voice for each language.

_TUXPAINT_UNSEEN = ("ca", "da")
_DESCRIPTION = re.compile(r"^(.*)_desc(?:_([a-z]{2}))?$")


def tuxpaint(root: Path) -> Iterator[SourceFile]:
    stamps = root / "usr/share/tuxpaint/stamps"
    for path in sorted(stamps.rglob("*_desc*.ogg")):
        match = _DESCRIPTION.match(path.stem)
        if match is None:
            continue
        language = match[2] or "en"
        yield SourceFile(
            path=path,
            id=f"tuxpaint-{language}/{path.relative_to(stamps).parent.as_posix()}/{match[1]}",
            speaker=f"tuxpaint-{language}",
            language=language,
            text=_tuxpaint_text(path.with_name(f"{match[1]}.txt"), language),
            source="tuxpaint-stamps-default",
            licence="GPL-2+",
            unseen=language in _TUXPAINT_UNSEEN,
        )


def _tuxpaint_text(path: Path, language: str) -> str | None:
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if language == "en":
        return (lines[0].strip() if lines else "") or None
    start = f"{language}.utf8="
    return next((line[len(start) :].strip() for line in lines if line.startswith(start)), None) or None
