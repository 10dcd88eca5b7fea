"""Minutes of a prepared corpus by speaker and split: as a dictionary, as JSON beside the corpus, as a table."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from audiovq.data.utterance import SAMPLE_RATE, SPLITS


def summarize(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Minutes and files by split and by speaker, of a manifest's lines; speakers in order of their minutes."""
    speakers: dict[str, dict[str, Any]] = {}
    total: dict[str, dict[str, float]] = defaultdict(lambda: {"files": 0, "minutes": 0.0})
    for line in lines:
        minutes = line["n_samples"] / SAMPLE_RATE / 60
        speaker = speakers.setdefault(
            line["speaker"], {"languages": [], "source": [], "licence": [], "files": 0, "minutes": {}}
        )
        for name, value in (("languages", "language"), ("source", "source"), ("licence", "licence")):
            if line[value] not in speaker[name]:
                speaker[name].append(line[value])
        speaker["files"] += 1
        speaker["minutes"][line["split"]] = speaker["minutes"].get(line["split"], 0.0) + minutes
        total[line["split"]]["files"] += 1
        total[line["split"]]["minutes"] += minutes
    return {
        "splits": {split: {**sums, "minutes": round(sums["minutes"], 2)} for split, sums in sorted(total.items())},
        "speakers": {
            name: {**speaker, "minutes": {split: round(m, 2) for split, m in sorted(speaker["minutes"].items())}}
            for name, speaker in sorted(speakers.items(), key=lambda item: -sum(item[1]["minutes"].values()))
        },
    }


def write_summary(summary: Mapping[str, Any], folder: Path) -> None:
    """Write ``summary.json`` into a corpus."""
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def table_of(summary: Mapping[str, Any]) -> Table:
    """The summary as a table for the terminal."""
    table = Table("speaker", "languages", *SPLITS, "files", title="minutes by speaker and split")
    for name, speaker in summary["speakers"].items():
        minutes = [f"{speaker['minutes'].get(split, 0):.1f}" for split in SPLITS]
        table.add_row(name.partition("/")[2], " ".join(speaker["languages"]), *minutes, str(speaker["files"]))
    total = [f"{summary['splits'].get(split, {}).get('minutes', 0):.1f}" for split in SPLITS]
    table.add_row("all", "", *total, str(sum(split["files"] for split in summary["splits"].values())))
    return table
