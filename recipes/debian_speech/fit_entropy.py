"""The bundled model's entropy model: fitted to the codes of the training split, written beside the model's weights.

python recipes/debian_speech/fit_entropy.py [--model NAME|DIR] [--steps N]

Runs after the model's weights are final (bundle.py calls it); another model's codes are other codes. The codes of the
corpus are made once and kept in the cache. An entropy model that was there for the same weights stays beside the new
one, under a name that tells its identity, so that files coded with it can still be read. What the float network and its
integers give on the validation and test files is printed and kept in entropy.json beside this script.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiovq import SpeechCodec
from audiovq.bitstream.entropy import EntropyCoder
from audiovq.bitstream.entropy_model import FILE_NAME, OLDER_NAMES, EntropyModel, load_entropy_model
from audiovq.data.codes import cached_codes
from audiovq.data.utterance import CodedUtterance
from audiovq.hub import model_folder
from audiovq.io import cache_dir
from audiovq.training.entropy import EntropySettings, fit, ideal_bits, training_rows
from audiovq.training.entropy_integers import speaker_weights, to_integers

RESULTS = Path(__file__).resolve().parent / "entropy.json"


def calibration(utterances: Sequence[CodedUtterance], length: int, n_codebooks: int) -> list[torch.Tensor]:
    """Some packets of training codes, with all and with fewer codebooks."""
    rows = training_rows(utterances, length, np.random.default_rng(1))
    codes = torch.from_numpy(np.stack([next(rows) for _ in range(48)]).astype(np.int64))
    return [codes[:, :n] for n in sorted({1, 2, 4, n_codebooks})]


def measure(network: Any, coder: EntropyCoder, utterances: Sequence[CodedUtterance], frames: int) -> dict[str, Any]:
    """Bits a code, each utterance a file of its own, by the number of codebooks: float, integers, and each book's."""
    results: dict[str, Any] = {}
    n_frames = sum(u.n_frames for u in utterances)
    for n in (1, 2, 4, 8):
        if n <= coder.model.n_codebooks:
            floats = ideal_bits(network, utterances, frames, n)
            integers = sum(
                coder.bits(np.asarray(u.codes[:n, i : i + frames], np.int64))
                for u in utterances
                for i in range(0, u.n_frames, frames)
            )
            results[str(n)] = {
                "float": round(float(floats.sum()) / n / n_frames, 4),
                "integers": round(integers / n / n_frames, 4),
                "float_by_book": (floats / n_frames).round(3).tolist(),
            }
    return results


def keep_older(folder: Path, new: EntropyModel) -> None:
    """Rename the entropy model that ``new`` takes the place of, if it reads files of the same weights."""
    old = load_entropy_model(folder, new.model_hash)
    if old is not None and old.identity != new.identity:
        (folder / FILE_NAME).rename(folder / OLDER_NAMES.replace("*", old.identity.hex()))


def main() -> None:
    """Code, fit, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a bundled model's name or a folder; without it the default model")
    parser.add_argument("--corpus", default="debian_speech")
    parser.add_argument("--steps", type=int, default=EntropySettings.steps)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("audiovq").setLevel(logging.INFO)
    codec = SpeechCodec.from_pretrained(options.model)
    if codec.n_codebooks < 2:
        raise SystemExit(f"{codec.name} has one codebook: the integer network is made for two and more")
    begin = start = time.perf_counter()

    def stage(what: str) -> None:
        nonlocal start
        print(f"{what}: {time.perf_counter() - start:.0f} s", flush=True)
        start = time.perf_counter()

    codes = cached_codes(codec, [options.corpus])
    train = codes.split("train")
    stage("codes of the corpus")
    tables = torch.stack([level.table().detach() for level in codec.quantizer.levels])
    # The run is named after the weights that make the codes: called again, it goes on, or is done already.
    folder = cache_dir() / "runs" / f"entropy-{codec.model_hash.hex()}"
    settings = EntropySettings(steps=options.steps)
    network = fit(tables, train, codec.packet_frames, folder, settings, codes.split("validation"))
    stage(f"{options.steps} training steps")
    integers = to_integers(network, calibration(train, codec.packet_frames, codec.n_codebooks))
    model = EntropyModel(codec.model_hash, integers, speaker_weights(train, 1 << codec.speaker_bits))
    keep_older(model_folder(options.model), model)
    path = model.save(model_folder(options.model))
    coder = EntropyCoder(model)
    found = {name: measure(network, coder, codes.split(name), codec.packet_frames) for name in ("validation", "test")}
    stage("integers, measured")
    results = {"model": codec.name, "hash": codec.model_hash.hex(), "steps": options.steps, "bits_per_code": found}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    print(f"{path}: {path.stat().st_size:,} bytes, {time.perf_counter() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
