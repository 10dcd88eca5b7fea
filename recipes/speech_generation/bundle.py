"""Third stage: put a trained prior beside its codec in the package, where `audiovq generate speech` finds it.

python recipes/speech_generation/bundle.py [--run DIR] [--model NAME|DIR]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from audiovq.codec.codec import SpeechCodec
from audiovq.errors import AudioVQError
from audiovq.io import cache_dir
from audiovq.prior.speech import FOLDER, load_prior

MOST_BYTES = 15_000_000


def bundle(run: Path, model: str | None) -> Path:
    """Copy a run's best prior into the codec's folder; it must be one for this codec's codes.

    Raises:
        AudioVQError: when it is not, or when it is too large.
    """
    codec = SpeechCodec.from_pretrained(model)
    assert codec.folder is not None
    prior, voices = load_prior(run / "best", codec)
    size = (run / "best" / "model.safetensors").stat().st_size
    if size > MOST_BYTES:
        raise AudioVQError(f"{run / 'best'} has {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}")
    folder = codec.folder / FOLDER
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "training.json"):
        shutil.copyfile(run / "best" / name, folder / name)
    weights = sum(p.numel() for p in prior.parameters()) / 1e6
    known = "no voices" if voices is None else f"the density of {len(voices.means)} voices"
    told = json.loads((folder / "training.json").read_text())
    print(f"{folder}: {weights:.1f} M weights, {size / 1e6:.1f} MB, {known}, step {told['step']}")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=cache_dir() / "runs" / "prior")
    parser.add_argument("--model", help="the codec; default: the bundled speech model")
    options = parser.parse_args()
    try:
        bundle(options.run, options.model)
    except AudioVQError as error:
        raise SystemExit(f"bundle.py: {error}") from error


if __name__ == "__main__":
    main()
