"""English words for `audiovq evaluate generation`, from Debian's package wamerican: <cache>/data/words/en.txt.

python recipes/speech_generation/words.py [--debs DIR]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from audiovq.io import atomic_write, cache_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from debian_packages import fetch, unpack

PACKAGE = "wamerican"


def main() -> None:
    """Fetch the package where it is missing, and keep its list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debs", type=Path, default=cache_dir() / "debs", help="folder of .deb files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        unpack(fetch(options.debs, [PACKAGE]).values(), Path(temporary))
        text = (Path(temporary) / "usr/share/dict/american-english").read_text(encoding="utf-8")
    target = cache_dir() / "data" / "words" / "en.txt"
    with atomic_write(target) as path:
        path.write_text(text, encoding="utf-8")
    print(f"{target}: {len(text.split()):,} words")


if __name__ == "__main__":
    main()
