"""What codes know of phonemes in the paper's set-up (2017, section 4.2): 25 latents a second, one book of 128.

    python recipes/paper/phones.py [--steps N]

Trains `experiment=phones_debian` (it resumes), asks `audiovq evaluate probe --metrics phones` what its codes say,
and writes ``phones.json`` and ``phones.png`` beside this file. Needs the package pocketsphinx and prepared recordings.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from audiovq.files import cache_dir

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="of the training, when time is short")
    steps = parser.parse_args().steps
    less = [f"training.max_steps={steps}", f"training.decay_steps={max(steps // 3, 1)}"] if steps else []
    run("train", "experiment=phones_debian", *less)
    model = cache_dir() / "runs" / "phones" / "best"
    run(
        *("evaluate", "probe", "--metrics", "phones", "--model", str(model)),
        *("--json", str(HERE / "phones.json"), "--picture", str(HERE / "phones.png")),
    )


def run(*command: str) -> None:
    """An `audiovq` command, or the end."""
    if code := subprocess.run([sys.executable, "-m", "audiovq", *command]).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
