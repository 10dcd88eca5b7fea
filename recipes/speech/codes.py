"""Codes of the packed corpora by a speech model, for training its prior and its entropy model.

python recipes/speech/codes.py --model DIR [--minutes N] [--corpus NAME|DIR ...]

Every utterance is coded with all codebooks, its pitch, levels and speaker vector, and kept in <cache>/codes under the
model's hash and the corpora's, real and synthetic speech alike. Called again after an interruption it goes on. Training
(`audiovq train experiment=prior`, `experiment=entropy`) makes the same codes itself where they are missing.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from audiovq import SpeechCodec
from audiovq.data.codes import cached_codes


def options_of(description: str | None) -> tuple[SpeechCodec, list[Any]]:
    """The model and the corpora that the command line names."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a bundled model's name or a folder; without it the default model")
    parser.add_argument("--minutes", type=float, help="of each split of the packed corpora; without it all")
    parser.add_argument("--corpus", nargs="+", default=["packed"], help="names of corpora or folders")
    options = parser.parse_args()
    corpora = [
        {"name": name, "minutes": options.minutes} if name == "packed" and options.minutes else name
        for name in options.corpus
    ]
    return SpeechCodec.from_pretrained(options.model), corpora


def main() -> None:
    """Code, and print what there is by split."""
    torch.set_num_threads(1)
    codec, corpora = options_of(__doc__)
    begin = shown = time.perf_counter()

    def show(done: int, total: int) -> None:
        nonlocal shown
        if time.perf_counter() - shown > 10 or done == total:
            shown = time.perf_counter()
            print(f"{done} of {total} utterances, {shown - begin:.0f} s", flush=True)

    cache = cached_codes(codec, corpora, progress=show)
    for split in sorted({utterance.split for utterance in cache.utterances}):
        chosen = cache.split(split)
        hours = sum(u.n_samples for u in chosen) / codec.sample_rate / 3600
        print(f"{split}: {len(chosen)} utterances, {hours:.2f} h, {len({u.speaker for u in chosen})} speakers")
    print(f"{cache.folder}, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
