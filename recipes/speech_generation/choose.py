"""Fourth stage: choose on the validation split how codes are drawn, and keep it in the bundled prior's config.json.

    python recipes/speech_generation/choose.py [--model NAME|DIR] [--prior DIR] [--samples N]

Numbers of books, temperatures and top-p are tried. Those count whose samples are rated within 0.4 DNSMOS of real speech
coded with as many books (all, where none is); of these the one whose first book is distributed most like real speech's,
pairs of codes included.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from audiovq.data.codes import cached_codes
from audiovq.data.tokens import make_tapes
from audiovq.evaluation.generation import Settings, Speech, rate, real_speech, sampled_speech
from audiovq.evaluation.protocol import silent
from audiovq.evaluation.sampled_speech import divergences
from audiovq.hub import model_folder
from audiovq.io import atomic_write, read_json
from audiovq.prior.speech import FOLDER, SpeechPrior
from audiovq.tensor_files import write_json

HERE = Path(__file__).resolve().parent
BOOKS = (2, 4, 8)
DRAWINGS = ((0.9, 0.8), (1.0, 0.8), (1.0, 0.9), (1.0, 1.0))
"""Temperatures and top-p."""
NEAR = 0.4  # of DNSMOS


def best(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """See the head of this file."""
    near = [one for one in tried if one["dnsmos"] > one["real"] - NEAR]
    return min(near or tried, key=lambda one: one["divergence"])


def dnsmos(speech: Speech) -> float:
    """Mean DNSMOS."""
    mean = rate(speech)
    assert mean is not None
    return mean.mean


def attempts(source: SpeechPrior, corpus: str, n: int) -> Iterator[dict[str, Any]]:
    """One after the other: the setting, DNSMOS of samples and of real speech, and the divergence of the first book."""
    tapes = make_tapes(cached_codes(source.codec, [corpus]).split("validation"))
    radix = source.prior.codebook_size + 1
    for books in BOOKS:
        real = real_speech(source, tapes, Settings(n, n_codebooks=books), silent)
        real_dnsmos = dnsmos(real)
        for temperature, top_p in DRAWINGS:
            settings = Settings(n, temperature=temperature, top_p=top_p, n_codebooks=books)
            drawn = sampled_speech(source, settings, silent)
            apart = divergences(drawn.codes, real.codes, radix)
            yield {
                "drawn_codebooks": books,
                "temperature": temperature,
                "top_p": top_p,
                "dnsmos": dnsmos(drawn),
                "real": real_dnsmos,
                "divergence": apart["unigram"][0] + apart["bigram"][0],
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="the codec; default: the bundled speech model")
    parser.add_argument("--prior", help="the prior's folder; default: the codec's own")
    parser.add_argument("--corpus", default="debian_speech")
    parser.add_argument("--samples", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(options.prior) if options.prior else model_folder(options.model) / FOLDER
    tried = []
    for one in attempts(SpeechPrior.from_pretrained(options.model, folder), options.corpus, options.samples):
        tried.append(one)
        print(
            "{drawn_codebooks} books, temperature {temperature}, top-p {top_p}: DNSMOS {dnsmos:.2f} (real speech "
            "{real:.2f}), divergence {divergence:.3f}".format(**one),
            flush=True,
        )
    chosen = best(tried)
    config = read_json(folder / "config.json")
    config |= {name: chosen[name] for name in ("temperature", "top_p", "drawn_codebooks")}
    write_json(folder / "config.json", config)
    with atomic_write(HERE / "drawing.json") as path:
        path.write_text(json.dumps({"tried": tried, "chosen": chosen}, indent=1) + "\n")
    print(
        "{}: {drawn_codebooks} books, temperature {temperature}, top-p {top_p}".format(folder / "config.json", **chosen)
    )


if __name__ == "__main__":
    main()
