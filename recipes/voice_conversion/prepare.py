"""Prepare a corpus for training: as shards of 16 kHz, which are quick to read.

    python recipes/voice_conversion/prepare.py debian_speech
    python recipes/voice_conversion/prepare.py vctk --root /corpora/VCTK
    python recipes/voice_conversion/prepare.py folder --root /my/recordings     # speaker/utterance.wav

It goes to <cache>/data/NAME or --out; train with `data.corpora=[{name: debian_speech}]` or the folder's path.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from audiovq.data.corpora import NAMES, open_corpus
from audiovq.data.utterance import write_shards
from audiovq.errors import AudioVQError
from audiovq.io import cache_dir

DEBIAN = Path(__file__).resolve().parent.parent / "debian_speech" / "prepare.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=NAMES)
    parser.add_argument("--root", type=Path, default=None, help="where the corpus lies")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if options.corpus == "debian_speech":
        out = [] if options.out is None else ["--out", str(options.out)]
        sys.exit(subprocess.run([sys.executable, str(DEBIAN), *out]).returncode)
    out = options.out or cache_dir() / "data" / f"{options.corpus}_shards"
    utterances = open_corpus(options.corpus, None, options.root)
    write_shards(utterances, out)
    hours = sum(utterance.seconds for utterance in utterances) / 3600
    print(f"{out}: {len(utterances)} utterances of {len({u.speaker for u in utterances})} voices, {hours:.1f} hours")


if __name__ == "__main__":
    try:
        main()
    except AudioVQError as error:
        sys.exit(f"error: {error}")
