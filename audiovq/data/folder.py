"""A plain folder of recordings: ``speaker/utterance.wav|flac|ogg|opus|mp3``, a ``.txt`` of the same name beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from audiovq.data.decode import FileReader, seconds_of
from audiovq.data.utterance import Utterance, split_of
from audiovq.errors import AudioVQError
from audiovq.io import shown

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def open_folder(
    root: Path,
    split: str | None = None,
    language: str = "und",
    licence: str = "unknown",
    unseen: Sequence[str] = (),
) -> list[Utterance]:
    """The recordings of a folder, split by `split_of` their file names.

    The first folder below ``root`` is the speaker, whatever lies deeper; files in ``root`` itself are one more
    speaker, named after it.

    Args:
        root: the folder.
        split: one of `audiovq.data.corpora.SPLITS`, or None for all.
        language, licence: of all the recordings.
        unseen: speakers to keep for the split "unseen".

    Raises:
        AudioVQError: when there is no such folder, no recording in it, a file cannot be decoded, or an unseen speaker
            is not there.
    """
    if not root.is_dir():
        raise AudioVQError(f"no folder {root}: give the root of a folder speaker/utterance.wav")
    files = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not files:
        raise AudioVQError(f"no recordings in {root}: expected speaker/utterance with {', '.join(SUFFIXES)}")
    speakers = {path: _speaker(path, root) for path in files}
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


def _speaker(path: Path, root: Path) -> str:
    folders = path.relative_to(root).parts[:-1]
    return folders[0] if folders else root.name
