"""Last stage: measure the prior and its speed, and write ``results.json``, ``results.png`` and ``results.md``.

    python recipes/speech_generation/measure.py [--model NAME|DIR] [--prior DIR] [--samples N] [--no-speed]

`audiovq evaluate generation` on the test split, and `benchmarks/prior.py`; codes are drawn as the prior says, which
choose.py chose on the validation split. The figures also go into the model card of a prior beside its codec.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from audiovq.hub import model_folder
from audiovq.io import atomic_write
from audiovq.prior.speech import FOLDER, load_prior
from recipes.model_card import HEADS

CARD = """# The prior of {codec}

An autoregressive model of the codes of audiovq's speech model: a transformer over frames, a small network over the
codebooks of a frame. {weights:.1f} million weights, matrices in 8 bits. `audiovq generate speech` samples from it.

* **Trained by** `audiovq train experiment=prior`, {steps} steps on codes of the speech model's training data.
  Sources, licences and what was left out are in that model's card. No test or validation recording was trained on.
* **Drawn with** temperature {temperature}, top-p {top_p} and {books} codebooks where nothing is asked for,
  chosen on validation (`recipes/speech_generation/choose.py`).
* **Conditions**: a speaker vector, a language. It carries a density of the training speakers' vectors, from which
  `--speaker random` draws: Gaussians, no recordings.

## Figures

By `audiovq evaluate generation` on the test split; docs/generation.md says what is measured.

{tables}
## What it is bad at

* It knows no words. What it draws has the sounds and the rhythm of speech, in no language in particular.
* Some ten hours of prompts, game dialogue and synthetic speech were its whole world: isolated sentences, few voices.
* Speech that it draws in somebody's voice is not that person's: say so where it could be taken for it.
"""

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
SPEED = ("vs_gpt2", "codes_vs_gpt2", "tokens_per_second", "codes_per_second", "speech_10s_seconds", "deviation", "int8")


def run(*command: str) -> None:
    """One command, or the end."""
    if subprocess.run([sys.executable, "-W", "ignore", *command]).returncode:
        raise SystemExit("measuring failed; nothing was written")


def summary(results: dict[str, Any]) -> str:
    """The figures as tables for a README or a model card."""
    lines = ["| model | nats per code | by codebook | bits/s |", "|---|---|---|---|"]
    for name, found in results["likelihood"].items():
        books = " ".join(f"{x:.2f}" for x in found["nats_per_code_by_codebook"])
        lines.append(f"| {name} | {found['nats_per_code']:.3f} | {books} | {found['bits_per_second']:.0f} |")
    lines += ["", "| | samples | real speech | other real speech |", "|---|---|---|---|"]
    names = ("samples", "real speech", "other real speech")
    for kind in ("unigram", "bigram"):
        drawn, other = (results["divergence"][name][kind][0] for name in (names[0], names[2]))
        lines.append(f"| {kind} divergence, first codebook, bits | {drawn:.3f} | 0 | {other:.3f} |")
    for key in ("pause_share", "pauses_per_second", "pause_seconds_mean", "voiced_share", "f0_median"):
        values = (results["sound"][name][key] for name in names)
        lines.append(
            f"| {key.replace('_', ' ')} | " + " | ".join("" if v is None else f"{v:.3g}" for v in values) + " |"
        )
    if "dnsmos" in results:
        values = (results["dnsmos"][name] for name in names[:2])
        lines.append("| DNSMOS | " + " | ".join(f"{v['mean']:.2f} ± {v['ci95'] or 0:.2f}" for v in values) + " | |")
    for what, found in results["copied"]["samples"].items():
        real = results["copied"]["real speech"][what]["longest"]
        what = what.replace("_", " ")
        lines.append(f"| longest copy of training, {what}, s | {found['longest']:.2f} | {real:.2f} | |")
    return "\n".join(lines) + "\n"


def write_card(folder: Path, results: dict[str, Any]) -> None:
    """The model card of a prior, beside it."""
    config = json.loads((folder / "config.json").read_text())
    prior, _ = load_prior(folder)
    training = json.loads((folder / "training.json").read_text())
    text = CARD.format(
        codec=folder.parent.name,
        weights=sum(p.numel() for p in prior.parameters()) / 1e6,
        steps=training["step"],
        temperature=config["temperature"],
        top_p=config["top_p"],
        books=config["drawn_codebooks"],
        tables=summary(results),
    )
    with atomic_write(folder / "README.md") as path:
        path.write_text(HEADS["prior"] + text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="the codec; default: the bundled speech model")
    parser.add_argument("--prior", help="the prior's folder; default: the codec's own")
    parser.add_argument("--split", default="test")
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--no-speed", action="store_true", help="leave benchmarks/prior.py out")
    options = parser.parse_args()
    which = ["--model", options.model] if options.model else []
    which += ["--prior", options.prior] if options.prior else []
    drawing = ["--samples", str(options.samples), "--split", options.split]
    files = ["--json", str(RESULTS), "--plot", str(HERE / "results.png")]
    run("-m", "audiovq", "evaluate", "generation", *which, *drawing, *files)
    results = json.loads(RESULTS.read_text())
    if not options.no_speed:
        command = [sys.executable, "-W", "ignore", str(HERE.parents[1] / "benchmarks" / "prior.py"), "--json", *which]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit("the benchmark failed; results.json has no speed")
        results["speed"] = {key: value for key, value in json.loads(done.stdout).items() if key.startswith(SPEED)}
    with atomic_write(RESULTS) as path:
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    (HERE / "results.md").write_text(summary(results))
    if not options.prior:
        write_card(model_folder(options.model) / FOLDER, results)
    print(summary(results))


if __name__ == "__main__":
    main()
