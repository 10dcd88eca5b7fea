"""Evaluate converters on the fixed pairs and write the figures into this folder: results.json, results.png, the README.

    python recipes/voice_conversion/evaluate.py [--model NAME|DIR] [--codebooks 1,2] [--pitch auto] [--limit N]
    python recipes/voice_conversion/evaluate.py --only-write        # the README's table anew from results.json

All options but the last one go to `audiovq evaluate conversion`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from audiovq.evaluation.conversion import MEASURES

HERE = Path(__file__).resolve().parent
RESULTS, PICTURE, README = HERE / "results.json", HERE / "results.png", HERE / "README.md"
BEGIN, END = "<!-- figures: written by evaluate.py -->\n", "<!-- end of figures -->\n"


def tables(report: dict) -> str:
    """The report's figures as Markdown, seen and unseen targets apart."""
    about = report["protocol"]
    text = f"Model `{about['model']}` ({about['model_hash']}). Means with 95 % intervals over pairs.\n"
    for kind in dict.fromkeys(system["split"] for system in report["systems"]):
        systems = [system for system in report["systems"] if system["split"] == kind]
        names = [name for name in MEASURES if any(name in system["metrics"] for system in systems)]
        text += f"\n### {kind} targets ({systems[0]['n']} pairs)\n\n"
        text += "| | " + " | ".join(MEASURES[name].label for name in names) + " |\n|---|" + "---|" * len(names) + "\n"
        for system in systems:
            cells = [cell(system["metrics"].get(name), MEASURES[name].decimals) for name in names]
            text += f"| {system['name']} | " + " | ".join(cells) + " |\n"
    return text


def cell(mean: dict | None, decimals: int) -> str:
    """One figure, with its interval where there is one."""
    if mean is None:
        return ""
    interval = "" if mean["ci95"] is None else f" ± {mean['ci95']:.{decimals}f}"
    return f"{mean['mean']:.{decimals}f}{interval}"


def write_readme() -> None:
    """Put the figures between their marks."""
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    figures = tables(json.loads(RESULTS.read_text(encoding="utf-8")))
    README.write_text(before + BEGIN + "\n" + figures + "\n" + END + after, encoding="utf-8")


def main() -> None:
    options = sys.argv[1:]
    if {"-h", "--help"} & set(options):
        print(__doc__)
        return
    if options != ["--only-write"]:
        world = ["--world"] if find_spec("pyworld") else []
        command = [sys.executable, "-m", "audiovq", "evaluate", "conversion", *world, *options]
        done = subprocess.run([*command, "--json", str(RESULTS), "--plot", str(PICTURE)])
        if done.returncode:
            sys.exit(done.returncode)
    write_readme()
    print(f"figures: {README}")


if __name__ == "__main__":
    main()
