"""What codes know of phonemes in the paper's set-up (2017, section 4.2): 25 latents a second, one book of 128.

    python recipes/paper/phones.py [--taught [--rate 50]] [--steps N]

Trains `experiment=phones_debian` (it resumes), asks `audiovq evaluate probe --metrics phones` what its codes say,
and writes ``phones.json`` and ``phones.png`` beside this file. With ``--taught`` it is `experiment=phones_taught`,
whose codes also learn from a recogniser, and ``phones_taught.*``; with ``--rate 50``, too, it is
`experiment=phones_taught50`, one book of 1024 at the bundled model's 50 latents a second.
Needs the package pocketsphinx and prepared recordings.
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
    parser.add_argument("--taught", action="store_true", help="codes that also learn from Whisper's encoder")
    parser.add_argument("--rate", type=int, choices=(25, 50), default=25, help="latents a second; 50 with --taught")
    options = parser.parse_args()
    if options.rate == 50 and not options.taught:
        parser.error("--rate 50 goes with --taught")
    steps, name = options.steps, "phones_taught" if options.taught else "phones"
    name += "50" if options.rate == 50 else ""
    experiment = name if options.taught else "phones_debian"
    less = [f"training.max_steps={steps}", f"training.decay_steps={max(steps // 3, 1)}"] if steps else []
    run("train", f"experiment={experiment}", *less)
    model = cache_dir() / "runs" / name / "best"
    run(
        *("evaluate", "probe", "--metrics", "phones", "--model", str(model)),
        *("--json", str(HERE / f"{name}.json"), "--picture", str(HERE / f"{name}.png")),
    )


def run(*command: str) -> None:
    """An `audiovq` command, or the end."""
    if code := subprocess.run([sys.executable, "-m", "audiovq", *command]).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
