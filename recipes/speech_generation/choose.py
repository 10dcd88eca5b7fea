"""Fourth stage: choose on the validation split how codes are drawn, and keep it in the bundled prior's config.json.

    python recipes/speech_generation/choose.py [--model NAME|DIR] [--prior DIR] [--samples N]

Of the temperatures and top-p tried, those count whose samples are rated within 0.4 DNSMOS of coded real speech (all,
where none is); of these the one whose first book is distributed most like real speech's, pairs of codes included.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import torch

from audiovq.data.code_stretches import make_tapes
from audiovq.data.codes import cached_codes
from audiovq.evaluation.generation.codes import divergences
from audiovq.evaluation.generation.protocol import Settings, drawn_speech, rate, real_speech
from audiovq.evaluation.progress import silent
from audiovq.files import atomic_write
from audiovq.prior.checkpoint import FOLDER
from audiovq.prior.speech import SpeechPrior
from audiovq.speech.checkpoint import model_folder

HERE = Path(__file__).resolve().parent
TEMPERATURES, TOPS = (0.8, 0.9, 1.0), (0.9, 1.0)
NEAR = 0.4  # of DNSMOS


def best(tried: list[dict[str, Any]], real: float) -> dict[str, Any]:
    """See the head of this file."""
    near = [one for one in tried if one["dnsmos"] > real - NEAR]
    return min(near or tried, key=lambda one: one["divergence"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="the codec; default: the bundled speech model")
    parser.add_argument("--prior", help="the prior's folder; default: the codec's own")
    parser.add_argument("--corpus", default="debian_speech")
    parser.add_argument("--samples", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(options.prior) if options.prior else model_folder(options.model) / FOLDER
    source = SpeechPrior.from_pretrained(options.model, folder)
    tapes = make_tapes(cached_codes(source.codec, [options.corpus]).split("validation"))
    radix = source.prior.codebook_size + 1
    real = real_speech(source, tapes, Settings(options.samples), silent)
    wanted = float(rate(real)["mean"] or 0)
    print(f"coded real speech: DNSMOS {wanted:.2f}")
    tried = []
    for temperature, top_p in product(TEMPERATURES, TOPS):
        settings = Settings(options.samples, temperature=temperature, top_p=top_p)
        drawn = drawn_speech(source, settings, silent)
        apart = divergences(drawn.codes, real.codes, radix)
        divergence = apart["unigram"][0] + apart["bigram"][0]
        one = {"temperature": temperature, "top_p": top_p, "dnsmos": rate(drawn)["mean"], "divergence": divergence}
        tried.append(one)
        print(
            "temperature {temperature}, top-p {top_p}: DNSMOS {dnsmos:.2f}, divergence {divergence:.3f}".format(**one)
        )
    chosen = best(tried, wanted)
    config = json.loads((folder / "config.json").read_text())
    config |= {name: chosen[name] for name in ("temperature", "top_p")}
    with atomic_write(folder / "config.json") as path:
        path.write_text(json.dumps(config, indent=2) + "\n")
    with atomic_write(HERE / "drawing.json") as path:
        path.write_text(json.dumps({"real": wanted, "tried": tried, "chosen": chosen}, indent=1) + "\n")
    print(f"{folder / 'config.json'}: temperature {chosen['temperature']}, top-p {chosen['top_p']}")


if __name__ == "__main__":
    main()
