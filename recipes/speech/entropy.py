"""The entropy model of a speech model: trained on the codes of the training split, written beside the model's weights.

python recipes/speech/entropy.py --model DIR [--steps N | --minutes N] [--corpus NAME|DIR ...] [KEY=VALUE ...]

Runs after the model's weights are final; another model's codes are other codes. After further training of a model
`training.init_from=FOLDER`, with a copy of its folder as it was, begins from its former entropy model. Codes that are
missing are made first, and kept. Called again it goes on, or is done already. Bits a code on validation utterances,
each a file of its own, of the float network and of its integers, and the share of the nominal rate that they save,
pitch and level included, are printed and kept in entropy.json beside the model.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from audiovq.bitstream.entropy import EntropyCoder
from audiovq.bitstream.entropy_model import FILE_NAME, load_entropy_model
from audiovq.errors import AudioVQError
from audiovq.hub import codes_hash, model_folder
from audiovq.training.codes import EntropyTask
from audiovq.training.entropy_network import ideal_bits, packets_of
from audiovq.training.run import compose, make_task, train


def measure(task: EntropyTask, coder: EntropyCoder) -> dict[str, Any]:
    """Bits a code and the share that is saved, by number of codebooks: float network and integers."""
    packets = packets_of(task.validation, task.facts.packet_frames)
    n_frames = sum(codes.shape[1] for codes, _ in packets)
    saved, results = task.validate(), {}
    for n in sorted({1, 2, 4, task.facts.n_codebooks}):
        if n <= task.facts.n_codebooks:
            floats = ideal_bits(task.model, task.validation, task.facts.packet_frames, n) / n_frames
            integers = sum(coder.bits(codes[:n], voiced) for codes, voiced in packets) / n_frames
            results[str(n)] = {
                "float": round(float(floats.mean()), 4),
                "integers": round(integers / n, 4),
                "float_by_codebook": floats.round(3).tolist(),
                "saved_with_pitch": round(saved[f"saved_{n}"], 4),
            }
    return {"pitch_and_level_bits_per_frame": round(saved["side"], 3), "by_codebooks": results}


def load_weights(task: EntropyTask, folder: Path) -> None:
    """Put exported float weights into a task."""
    from safetensors.torch import load

    task.model.load_state_dict(load((folder / "model.safetensors").read_bytes()))


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a bundled model's name or a folder; without it the default model")
    parser.add_argument("--corpus", nargs="+", default=["packed"], help="names of corpora or folders")
    parser.add_argument("--steps", type=int, help="of training; without it those of the experiment")
    parser.add_argument("--minutes", type=float, help="of training, in the place of steps")
    parser.add_argument("settings", nargs="*", help="changes of the configuration: key=value")
    options = parser.parse_intermixed_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("audiovq").setLevel(logging.INFO)
    folder = model_folder(options.model)
    model_hash = codes_hash(folder)
    settings = ["experiment=entropy", f"task.codec={folder}", f"name=entropy-{model_hash.hex()}"]
    if options.corpus != ["packed"]:
        settings.append(f"data.corpora=[{','.join(f'{{name: {name}}}' for name in options.corpus)}]")
    if options.minutes:
        settings += ["training.max_steps=null", f"training.minutes={options.minutes}"]
        settings += ["training.validate_every=300", "training.checkpoint_every=120", "training.log_every=60"]
    elif options.steps:
        settings.append(f"training.max_steps={options.steps}")
    config = compose([*settings, *options.settings])
    run = train(config)
    shutil.copyfile(run / "best" / FILE_NAME, folder / FILE_NAME)
    model = load_entropy_model(folder, model_hash)
    if model is None:
        raise AudioVQError(f"{run} has an entropy model of other codes than those of {folder}: remove that run")
    task = make_task(config)
    load_weights(task, run / "best")
    torch.set_num_threads(1)
    results = {"model": folder.name, "hash": model_hash.hex(), **measure(task, EntropyCoder(model))}
    (folder / "entropy.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    print(f"{folder / FILE_NAME}: {(folder / FILE_NAME).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
