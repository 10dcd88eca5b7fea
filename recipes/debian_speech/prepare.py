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

from audiovq.errors import AudioVQError
from audiovq.io import cache_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # recipes share modules

from recipes.corpus_summary import table_of
from recipes.debian_packages import fetch, unpack
from recipes.debian_speech.preparation import prepare, read_corrections, read_reserved, select
from recipes.debian_speech.sources import PACKAGES, all_sources

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
        debs = fetch(arguments.debs, PACKAGES)
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
    console.print(table_of(summary))
    console.print("left out: " + ", ".join(f"{count} {reason}" for reason, count in summary["left_out"].items()))
    console.print(f"{arguments.out}: manifest.jsonl, summary.json and shards")


if __name__ == "__main__":
    try:
        main()
    except AudioVQError as error:
        sys.exit(f"error: {error}")
