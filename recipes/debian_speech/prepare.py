"""Debian's speech recordings as a corpus: fetch the packages, decode, clean, write 16 kHz shards and a manifest.

    python recipes/debian_speech/prepare.py [--out DIR] [--debs DIR]

See the README beside this file for what is in it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from audiovq.data.debian import fetch, unpack
from audiovq.data.debian_sources import all_sources
from audiovq.data.preparation import prepare, read_corrections, read_reserved, select
from audiovq.data.splits import SPLITS
from audiovq.errors import AudioVQError
from audiovq.files import cache_dir

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=cache_dir() / "data" / "debian_speech")
    parser.add_argument("--debs", type=Path, default=cache_dir() / "debs", help="where .deb files are, or go")
    parser.add_argument("--reserved", type=Path, default=HERE / "reserved.sha256", help="sums of files to leave out")
    parser.add_argument("--corrections", type=Path, default=HERE / "corrections.json", help="speakers seen to differ")
    arguments = parser.parse_args()
    console = Console()
    with console.status("fetching packages"):
        debs = fetch(arguments.debs)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".debian-", dir=arguments.out.parent) as folder:
        with console.status("unpacking"):
            unpack(debs.values(), Path(folder))
        selection = select(
            all_sources(Path(folder)), read_reserved(arguments.reserved), read_corrections(arguments.corrections)
        )
        summary = prepare(
            selection, arguments.out, progress=lambda c: track(c, "decoding and cleaning", console=console)
        )
    show(summary, console)
    console.print(f"{arguments.out}: manifest.jsonl, summary.json and shards")


def show(summary: dict, console: Console) -> None:
    table = Table("speaker", "languages", *SPLITS, "files", title="minutes by speaker and split")
    for name, speaker in summary["speakers"].items():
        minutes = [f"{speaker['minutes'].get(split, 0):.1f}" for split in SPLITS]
        table.add_row(name.partition("/")[2], " ".join(speaker["languages"]), *minutes, str(speaker["files"]))
    total = [f"{summary['splits'].get(split, {}).get('minutes', 0):.1f}" for split in SPLITS]
    table.add_row("all", "", *total, str(sum(split["files"] for split in summary["splits"].values())))
    console.print(table)
    console.print("left out: " + ", ".join(f"{count} {reason}" for reason, count in summary["left_out"].items()))


if __name__ == "__main__":
    try:
        main()
    except AudioVQError as error:
        sys.exit(f"error: {error}")
