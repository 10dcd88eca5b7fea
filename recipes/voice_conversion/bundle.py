"""Put a run's last weights into the package as the model for conversion, with its voices, figures and model card.

    python recipes/voice_conversion/bundle.py [--run DIR] [--name conversion] [--books N] [--no-measure] [--note TEXT]

`best` weights are those of the best reconstruction; a converter is not chosen by that, so `latest` are the default.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from evaluate import RESULTS, tables

from audiovq import SpeechCodec
from audiovq.files import atomic_write, cache_dir
from audiovq.speech.checkpoint import BUNDLED, CONVERSION_MODEL

HERE = Path(__file__).resolve().parent

CARD = """# {name}

Speech codec of audiovq for voice conversion: codes that say little of who speaks, and a quantized speaker vector that
says it. {parameters:.1f} million weights, float16. `audiovq convert` uses it where nothing else is asked for, with
{books} of its {all_books} codebooks.

* **Trained by** `audiovq train experiment=verifier_debian` and `experiment=voice_debian` from the weights of the
  bundled speech model, then by `experiment=voice_taught`, {steps} steps more with another verifier, in which codes also
  learned from the encoder of Whisper base.{note}
  The word errors below are by the same Whisper base: another recogniser may find less of what it taught.
* **Data**: Debian packages asterisk-core-sounds-{{en,es,fr,it,ru}}-g722 (CC-BY-SA-3.0, it and ru CC-BY-3.0;
  Digium and the speakers), tuxpaint-stamps-default (GPL-2+), fillets-ng-data-cs and -nl (GPL-2), ktuberling-data
  (GPL-2+), prepared by `recipes/debian_speech/prepare.py`. Test and validation files, the Catalan and Danish voices of
  tuxpaint-stamps-default and the reserved files were left out.
* **Licence of the weights**: trained on the sources above; where a licence reaches weights, they are to be shared under
  CC-BY-SA-3.0 and GPL-2+ with the attribution above. The code is Apache-2.0.
* **Voices** by name: `audiovq speakers`; vectors of training recordings, in `speakers.json`.
* **Hash in files**: `{model_hash}`.

## Figures

By `audiovq evaluate conversion`, see docs/conversion.md for what is measured. {tables}
## What it is bad at

* Words: Whisper reads most of them wrong already when a source is coded in its own voice ("source, coded" above; real
  speech: "source, unconverted"). The bundled speech model keeps far more of them, but its codes keep the voice, too.
* It heard some 50 voices, 15 of them for more than five minutes. Others, as targets, come out less like themselves: see
  the unseen ones. Without `--timbre auto` they come out less like themselves still.
* Noise, music and several voices at once are turned into something like speech.
* A voice can be misused: convert to voices of people who agreed to it, and say that the result is converted.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=cache_dir() / "runs" / "conversion_taught")
    parser.add_argument("--name", default=CONVERSION_MODEL)
    parser.add_argument("--weights", choices=("best", "latest"), default="latest")
    parser.add_argument("--books", type=int, help="codebooks that convert uses, as validation showed it best")
    parser.add_argument("--no-measure", action="store_true", help="use the figures of the last time")
    parser.add_argument("--codebooks", default=None, help="to measure with, with commas")
    parser.add_argument("--note", default="", help="a remark on the training for the model card")
    options = parser.parse_args()
    folder = BUNDLED / options.name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(options.run / options.weights / "model.safetensors", folder / "model.safetensors")
    config = json.loads((options.run / options.weights / "config.json").read_text())
    if options.books is not None:
        config["conversion_codebooks"] = options.books
    with atomic_write(folder / "config.json") as path:
        path.write_text(json.dumps(config, indent=2) + "\n")
    subprocess.run([sys.executable, str(HERE / "make_speakers.py"), options.name], check=True)
    if not options.no_measure:
        books = [] if options.codebooks is None else ["--codebooks", options.codebooks]
        measure = [sys.executable, str(HERE / "evaluate.py"), "--model", options.name, "--timbre", "auto,keep", *books]
        subprocess.run(measure, check=True)
    codec = SpeechCodec.from_pretrained(options.name)
    training = json.loads((options.run / options.weights / "training.json").read_text())
    card = CARD.format(
        name=options.name,
        parameters=sum(p.numel() for p in codec.parameters()) / 1e6,
        books=codec.conversion_codebooks,
        all_books=codec.n_codebooks,
        steps=training["step"],
        note=f"\n  {options.note}" if options.note else "",
        model_hash=codec.model_hash.hex(),
        tables=tables(json.loads(RESULTS.read_text(encoding="utf-8"))),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(f"bundled {options.run / options.weights} as {folder}")


if __name__ == "__main__":
    main()
