"""The recordings of the Debian packages: who speaks in each file, which language, and what is said."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audiovq.data.debian import ASTERISK


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A recording in an unpacked package. ``unseen`` speakers are kept out of training, validation and test."""

    path: Path
    id: str
    speaker: str
    language: str
    text: str | None
    source: str
    licence: str
    unseen: bool = False


def all_sources(root: Path) -> Iterator[SourceFile]:
    """Every file that may hold speech, under the tree into which the packages were unpacked."""
    yield from asterisk(root)
    yield from fillets(root)
    yield from ktuberling(root)
    yield from tuxpaint(root)


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
