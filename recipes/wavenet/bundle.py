"""Put a trained WaveNet decoder beside the bundled speech model, where ``audiovq decode --decoder wavenet`` finds it.

    python recipes/wavenet/bundle.py RUN [--dtype float16|int8] [--model NAME|DIR] [--figures FILE]

RUN is a training's folder, as runs/wavenet (its best weights) or runs/wavenet/latest. It exports moving averages of the
weights; they are stored in ``wavenet`` in the model's folder, with a model card. A WaveNet that was trained on other
codes or another parallel decoder than the model's is refused. FILE is the comparison of both decoders for the card:

    audiovq evaluate codec --decoder wavenet --model RUN --metrics wer,speaker,dnsmos,distillmos --json FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from audiovq.errors import AudioVQError
from audiovq.hub import WAVENET, has_wavenet, model_folder, read_speech_config, save_weights
from audiovq.wavenet.sampler import WaveNetSampler, hashes, load_wavenet
from recipes.bundling import count_parameters, replaced, report, run_script
from recipes.model_card import HEADS

MOST_BYTES = 5_000_000
DTYPES = {"float16": torch.float16, "int8": torch.int8}
CARD = """# The WaveNet decoder of {name}

A second, optional decoder for the codes of audiovq's speech model, for all its bitrates: `audiovq decode --decoder
wavenet`. It refines the output of the parallel decoder sample by sample (docs/wavenet.md). {weights:.2f} million
weights, stored as {dtype}.

* **Belongs to** codes `{codes}` and parallel decoder `{decoder}`; with others it is refused.
* **Training**: `audiovq train experiment=wavenet`, {steps}; averaged weights.
* **Data and licence of the weights**: those of the speech model, see its card.
* **Sampled with** temperature {temperature} (`recipes/wavenet/temperature.py`).

## Figures

{figures}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a training's folder, or its exported model")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of the stored weights")
    parser.add_argument("--model", help="the codec; default: the bundled speech model")
    parser.add_argument("--figures", type=Path, help="figures of `audiovq evaluate codec --decoder wavenet`")
    options = parser.parse_args()
    figures = comparison(json.loads(options.figures.read_text())) if options.figures else "Not measured yet."
    bundle(options.run, model_folder(options.model), options.dtype, figures)


def bundle(run: str, model: Path, dtype: str, figures: str) -> None:
    """Export a run's WaveNet into a model's folder.

    Raises:
        AudioVQError: when the run has none, when it is for another model, when it is too large, or when the sampler
            cannot take it.
    """
    source = model_folder(run)
    if not has_wavenet(source):
        raise AudioVQError(f"{source} has no WaveNet: name a run of audiovq train experiment=wavenet")
    wavenet, made_for = load_wavenet(source), hashes(model)
    if (found := hashes(source)) != made_for:
        raise AudioVQError(
            f"the WaveNet in {source} is for codes {found['codes']} and parallel decoder {found['decoder']}; {model} "
            f"has {made_for['codes']} and {made_for['decoder']}: train one on it with task.codec={model}"
        )
    WaveNetSampler(wavenet)
    wavenet.config["made_for"] = made_for
    facts = {
        **made_for,
        "name": read_speech_config(model).get("name", model.name),
        "weights": count_parameters(wavenet) / 1e6,
        "dtype": dtype,
        "steps": training_of(source),
        "temperature": wavenet.config["temperature"],
        "figures": figures,
    }
    with replaced(model / WAVENET, MOST_BYTES) as new:
        save_weights(wavenet, new, DTYPES[dtype])
        (new / "README.md").write_text(HEADS["wavenet"] + CARD.format(**facts), encoding="utf-8")
    report(model / WAVENET, count_parameters(wavenet), dtype, f"for codes {made_for['codes']}", facts["steps"])


def training_of(folder: Path) -> str:
    """Steps and minutes of the training that exported a model."""
    path = folder / "training.json"
    if not path.is_file():
        return "a number of steps that the run does not say"
    told = json.loads(path.read_text())
    return f"{told['step']:,} steps in {told['minutes']:g} minutes"


def comparison(report: Mapping[str, Any]) -> str:
    """Tables of a report of `audiovq evaluate codec --decoder wavenet`: means of each decoder, and their differences.

    Raises:
        AudioVQError: for a report without a WaveNet.
    """
    systems = [system for system in report["systems"] if system["compared_with"]]
    if not systems:
        raise AudioVQError("the figures have no WaveNet: audiovq evaluate codec --decoder wavenet --json FILE")
    labels = {name: metric["label"] for name, metric in report["protocol"]["metrics"].items()}
    lines = [
        "By `audiovq evaluate codec --decoder wavenet` on the same excerpts; half widths of 95 % confidence intervals.",
        "Differences are the WaveNet's figure minus the parallel decoder's, paired.",
        "",
        f"| split | kb/s | decoder | {' | '.join(labels.values())} |",
        "|" + "---|" * (3 + len(labels)),
    ]
    for system in systems:
        key = (system["split"], system["compared_with"])
        (other,) = (one for one in report["systems"] if (one["split"], one["name"]) == key)
        rows = {"parallel": other["metrics"], "WaveNet": system["metrics"], "difference": system["difference"]}
        for title, means in rows.items():
            cells = " | ".join(_cell(means.get(name), title == "difference") for name in labels)
            lines.append(f"| {system['split']} | {system['kbps']:.2f} | {title} | {cells} |")
    return "\n".join(lines)


def _cell(mean: Mapping[str, Any] | None, signed: bool) -> str:
    if mean is None:
        return "–"
    interval = "" if mean["ci95"] is None else f" ±{mean['ci95']:.2f}"
    return f"{mean['mean']:+.2f}{interval}" if signed else f"{mean['mean']:.2f}{interval}"


if __name__ == "__main__":
    run_script(main)
