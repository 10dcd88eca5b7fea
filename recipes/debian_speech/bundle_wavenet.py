"""Put a run's best WaveNet into the package, beside the speech model whose codes it reads, measured and with a card.

audiovq train experiment=wavenet_debian
python recipes/debian_speech/bundle_wavenet.py [--run DIR] [--temperature T] [--limit N] [--no-measure] [--note TEXT]
python recipes/debian_speech/bundle_wavenet.py --figures        # measures what is bundled again
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bundle import COLUMNS, HERE, RESULTS, tables

from audiovq.hub import BUNDLED, DEFAULTS, codes_hash
from audiovq.io import atomic_write, cache_dir
from audiovq.speech.wavenet_files import load_wavenet, save_wavenet
from recipes.model_card import HEADS

MEASURED = HERE / "results_wavenet.json"
CARD = """# The WaveNet of the model {model}

Draws the waveform from the same codes and the same speaker vector as the parallel decoder, on top of that decoder's
draft ([docs/wavenet.md](../../../../docs/wavenet.md)): `audiovq decode --decoder wavenet`. {parameters:.1f} million
weights, float16, of which {stack:.2f} million are read in each of the 4,000 steps a second; the rest makes the
condition.

* **Trained by** `audiovq train experiment=wavenet_debian`, {steps} steps of {batch} crops of {crop} s:
  {heard:.1f} hours heard. {note}
* **Data and licence**: those of the [speech model](../README.md), training files alone.
* **Codes** of the model `{codes}`. Temperatures of the sub-bands, low to high, chosen on validation files:
  {temperature}.

## Which decoder for what

By `audiovq evaluate codec --split test --decoder wavenet` and `audiovq evaluate codec --split test`, the same excerpts:

{compared}"""


def verdict(ours: list[dict], parallel: list[dict]) -> str:
    """Which of the two is ahead at what, from the figures."""
    better: dict[str, list[str]] = {"WaveNet": [], "parallel decoder": []}
    for name, label in COLUMNS.items():
        means = [[s["metrics"][name]["mean"] for s in systems if name in s["metrics"]] for systems in (ours, parallel)]
        ahead = [(a > b) != (name == "mel") for a, b in zip(*means, strict=True)]
        if all(ahead) or not any(ahead):
            better["WaveNet" if all(ahead) else "parallel decoder"].append(label)
    told = [f"The {who} is ahead at every bit rate in: {', '.join(what)}." for who, what in better.items() if what]
    return "\n".join(told) + "\n"


def compared() -> str:
    """Both decoders' figures, and which is ahead."""
    ours = [s for s in json.loads(MEASURED.read_text())["systems"] if s["family"] != "reference"]
    names = {s["name"] for s in ours}
    parallel = [s for s in json.loads(RESULTS.read_text())["systems"] if s["name"] in names and s["split"] == "test"]
    ours_named = [{**s, "name": f"{s['name']}, WaveNet"} for s in ours]
    parallel_named = [{**s, "name": f"{s['name']}, parallel"} for s in parallel]
    return tables(ours_named + parallel_named, COLUMNS, headings=False) + verdict(ours, parallel)


def measure(model: str, limit: int) -> None:
    """Evaluate the bundled WaveNet with the command line."""
    command = ["evaluate", "codec", "--split", "test", "--decoder", "wavenet", "--limit", str(limit)]
    command += ["--metrics", ",".join(COLUMNS), "--model", model, "--json", str(MEASURED)]
    subprocess.run([sys.executable, "-m", "audiovq", *command], check=True)


def card(run: Path, model: str, temperature: list[float], note: str) -> str:
    """The model card, from the run's configuration and the measured figures."""
    from omegaconf import OmegaConf

    folder = BUNDLED / model
    wavenet = load_wavenet(folder, codes_hash(folder))
    config = OmegaConf.load(run / "config.yaml")
    steps = json.loads((run / "best" / "training.json").read_text())["step"]
    return CARD.format(
        model=model,
        parameters=sum(p.numel() for p in wavenet.parameters()) / 1e6,
        stack=sum(p.numel() for p in wavenet.stack.parameters()) / 1e6,
        steps=steps,
        batch=config.training.batch_size,
        crop=config.task.crop_seconds,
        heard=steps * config.training.batch_size * config.task.crop_seconds / 3600,
        note=note,
        codes=codes_hash(folder).hex(),
        temperature=", ".join(f"{x:g}" for x in temperature),
        compared=compared(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=cache_dir() / "runs" / "wavenet", help="folder of the run")
    parser.add_argument("--model", default=DEFAULTS["speech"], help="bundled model that gets it")
    parser.add_argument("--temperature", default="0.2,0.7,0.8,1", help="of each sub-band, as validation showed it best")
    parser.add_argument("--limit", type=int, default=36, help="excerpts to measure on; 0: all")
    parser.add_argument("--no-measure", action="store_true", help="use the figures of the last time")
    parser.add_argument("--figures", action="store_true", help="leave the weights, renew the figures of the card")
    parser.add_argument("--note", default="", help="a remark on the training for the model card")
    options = parser.parse_args()
    folder = BUNDLED / options.model
    if options.figures:
        if not options.no_measure:
            measure(options.model, options.limit)
        written = (folder / "wavenet" / "README.md").read_text()
        with atomic_write(folder / "wavenet" / "README.md") as path:
            path.write_text(written[: written.index("| system |")] + compared(), encoding="utf-8")
        return
    made_for = codes_hash(folder)
    wavenet = load_wavenet(options.run / "best", made_for)  # an error when the codec has moved on since
    wavenet.config["temperature"] = temperature = [float(x) for x in options.temperature.split(",")]
    save_wavenet(wavenet, folder, made_for)
    if not options.no_measure:
        measure(options.model, options.limit)
    with atomic_write(folder / "wavenet" / "README.md") as path:
        text = HEADS["wavenet"] + card(options.run, options.model, temperature, options.note)
        path.write_text(text, encoding="utf-8")
    size = (folder / "wavenet" / "model.safetensors").stat().st_size
    print(f"{folder / 'wavenet'}: {size / 1e6:.1f} MB, reads the codes of {made_for.hex()}")


if __name__ == "__main__":
    main()
