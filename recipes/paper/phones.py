"""What codes know of phonemes in the paper's set-up (2017, section 4.2): 25 latents a second, one book of 128.

    python recipes/paper/phones.py [SET-UP] [--steps N]

The set-ups, each with what is trained for it (trainings resume, and are skipped when done):

* ``phones`` (25 latents a second, 128 codes): on sound alone, all languages. `experiment=phones_debian`
* ``phones_taught`` (25, 128): codes also learn from Whisper's encoder. `experiment=phones_taught`
* ``phones_distilled`` (50, 1024): codes learn from Whisper's encoder alone, all languages; nothing is decoded.
* ``phones_english`` (25, 128): begins from `experiment=phones_taught50`, which sees more of what is around and learns
  from Whisper, and goes on with the English recordings alone. `experiment=phones_english`
* ``phones_english50`` (50, 1024): the same at the bundled model's rate and codebook size. `experiment=phones_english50`

`audiovq evaluate probe --metrics phones` then says what the codes say: ``SET-UP.json`` and ``SET-UP.png`` beside this
file. Needs the package pocketsphinx and prepared recordings.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

EXPERIMENTS = {
    "phones": ("phones_debian",),
    "phones_taught": ("phones_taught",),
    "phones_distilled": ("phones_distilled",),
    "phones_english": ("phones_taught50", "phones_english"),
    "phones_english50": ("phones_taught50", "phones_english50"),
}
"""By set-up, which is also the name of the last run, what is trained one after the other."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setup", metavar="SET-UP", nargs="?", choices=EXPERIMENTS, default="phones", help="see above")
    parser.add_argument("--steps", type=int, help="of each training, when time is short")
    options = parser.parse_args()
    steps, name = options.steps, options.setup
    less = [f"training.max_steps={steps}", f"training.decay_steps={max(steps // 3, 1)}"] if steps else []
    for experiment in EXPERIMENTS[name]:
        run("train", f"experiment={experiment}", *less)
    run(
        *("evaluate", "probe", "--metrics", "phones", "--model", f"runs/{name}/latest"),
        *("--json", str(HERE / f"{name}.json"), "--plot", str(HERE / f"{name}.png")),
    )


def run(*command: str) -> None:
    """An `audiovq` command, or the end."""
    if code := subprocess.run([sys.executable, "-m", "audiovq", *command]).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
