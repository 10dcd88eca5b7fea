"""Turn folders of synthetic speech into one prepared corpus: 16 kHz shards and a manifest.

    python recipes/kokoro_speech/prepare.py FOLDER... [--out DIR]

A folder holds Opus files and a ``manifest.jsonl`` with a line for each: id, group, file, speaker, prosody, language,
text, phones, n_samples, held. Items of one group are the same sentence by several speakers, aligned to the sample.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from audiovq.data.utterance import MANIFEST, read_manifest, read_native, resample, split_of, write_corpus
from audiovq.errors import AudioVQError
from audiovq.io import cache_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # recipes share modules

from recipes.corpus_summary import summarize, table_of, write_summary
from recipes.kokoro_speech.plan import canonical

DELAY = 0.06
"""Seconds by which Kokoro speaks earlier than its durations say, measured on vowels, plosives and fricatives (55-65 ms
in five languages and both sexes)."""

FIRST_SYMBOL = 0.05
"""Seconds of nearly every first symbol, for manifests whose phones do not begin with the silence before it."""

SOURCE, LICENCE = "Kokoro-82M", "Apache-2.0"
FIELDS = ("id", "group", "file", "speaker", "prosody", "language", "text", "phones", "n_samples", "held")


@dataclass(frozen=True)
class Item:
    """A line of a folder's manifest, and the audio file it describes."""

    path: Path
    fields: dict[str, Any]

    @property
    def split(self) -> str:
        """The group's split, so that a group is in one of them; "unseen" for held speakers."""
        return "unseen" if self.fields["held"] else split_of(self.fields["group"])


def read_items(folders: Sequence[Path]) -> list[Item]:
    """The items of several folders, in order.

    Raises:
        AudioVQError: when a manifest lacks fields, ids or groups occur in two folders, lengths differ within a group,
            or a speaker is held in one line and not in another.
    """
    items: list[Item] = []
    folder_of: dict[str, Path] = {}
    length_of: dict[str, int] = {}
    held: dict[str, bool] = {}
    ids: set[str] = set()
    for folder in folders:
        for fields in read_manifest(folder):
            missing = [name for name in FIELDS if name not in fields]
            if missing:
                raise AudioVQError(f"{folder / MANIFEST}: {fields.get('id', 'a line')} has no {', '.join(missing)}")
            id, group, speaker = fields["id"], fields["group"], canonical(fields["speaker"])
            if id in ids or folder_of.setdefault(group, folder) != folder:
                raise AudioVQError(f"{id} of {folder} occurs twice: ids and groups must differ between folders")
            if length_of.setdefault(group, fields["n_samples"]) != fields["n_samples"]:
                raise AudioVQError(f"{id} of {folder} differs in length from its group")
            if held.setdefault(speaker, fields["held"]) != fields["held"]:
                raise AudioVQError(f"speaker {speaker} of {folder} is held in some items and not in others")
            ids.add(id)
            items.append(Item(folder / fields["file"], fields))
    return items


def read_samples(item: Item) -> np.ndarray:
    """Float32 samples (n_samples,) at 16 kHz.

    Raises:
        AudioVQError: when the file cannot be decoded or has another length than its group.
    """
    samples = resample(*read_native(item.path))
    if len(samples) != item.fields["n_samples"]:
        raise AudioVQError(f"{item.path} has {len(samples)} samples, its manifest says {item.fields['n_samples']}")
    return samples


def phone_times(phones: Sequence[tuple[float, str]] | None) -> list[tuple[float, str]] | None:
    """End times in seconds and symbols as they are in the recording, the silence before the first one included.

    Args:
        phones: by the model's durations; a first symbol " " is that silence.
    """
    if not phones:
        return None
    if phones[0][1] != " ":
        phones = [(phones[0][0] - FIRST_SYMBOL, " "), *phones]
    return [(round(end - DELAY, 3), symbol) for end, symbol in phones]


def prepare(
    folders: Sequence[Path], out: Path, progress: Callable[[list[Item]], Iterable[Item]] = iter
) -> dict[str, Any]:
    """Decode the items of ``folders`` into a corpus in ``out``; the summary, which is also written there as JSON."""
    items = read_items(folders)
    with write_corpus(out) as writer:
        for item in progress(items):
            fields = item.fields
            writer.add(
                read_samples(item),
                id=fields["id"],
                speaker=f"kokoro_speech/{canonical(fields['speaker'])}",
                language=fields["language"],
                text=fields["text"],
                source=SOURCE,
                licence=LICENCE,
                split=item.split,
                group=fields["group"],
                prosody=f"kokoro_speech/{fields['prosody']}",
                phones=phone_times(fields["phones"]),
            )
        summary = summarize(writer.lines)
        write_summary(summary, writer.folder)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="manifest.jsonl and Opus files")
    parser.add_argument("--out", type=Path, default=cache_dir() / "data" / "kokoro_speech")
    arguments = parser.parse_args()
    console = Console()
    summary = prepare(arguments.folders, arguments.out, lambda items: track(items, "decoding", console=console))
    console.print(table_of(summary))
    console.print(f"{arguments.out}: manifest.jsonl, summary.json and shards")


if __name__ == "__main__":
    try:
        main()
    except AudioVQError as error:
        sys.exit(f"error: {error}")
