"""Third stage: put a trained prior beside its codec in the package, where `audiovq generate speech` finds it.

python recipes/speech_generation/bundle.py [--run DIR] [--model NAME|DIR]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from audiovq.codec.codec import SpeechCodec
from audiovq.io import cache_dir
from audiovq.prior.speech import FOLDER, load_prior
from recipes.bundling import copy_files, count_parameters, replaced, report, run_script

MOST_BYTES = 15_000_000


def bundle(run: Path, model: str | None) -> Path:
    """Copy a run's best prior into the codec's folder; it must be one for this codec's codes.

    Raises:
        AudioVQError: when it is not, or when it is too large.
    """
    codec = SpeechCodec.from_pretrained(model)
    assert codec.folder is not None
    prior, voices = load_prior(run / "best", codec)
    folder = codec.folder / FOLDER
    with replaced(folder, MOST_BYTES) as new:
        copy_files(run / "best", new, "config.json", "model.safetensors", "training.json")
    known = "no voices" if voices is None else f"the density of {len(voices.means)} voices"
    told = json.loads((folder / "training.json").read_text())
    report(folder, count_parameters(prior), known, f"step {told['step']}")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=cache_dir() / "runs" / "prior")
    parser.add_argument("--model", help="the codec; default: the bundled speech model")
    options = parser.parse_args()
    bundle(options.run, options.model)


if __name__ == "__main__":
    run_script(main)
