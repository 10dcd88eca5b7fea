"""Put the trained speech model among the bundled ones, in 8 bits.

    python recipes/speech/bundle.py runs/speech/latest [--name preview]

Writes the weights and prints the model's hash, which its card has to name; figures come from

    audiovq evaluate codec --model NAME --split test,unseen
    audiovq evaluate conversion --model NAME
"""

from __future__ import annotations

import argparse

import torch

from audiovq.codec.codec import SpeechCodec
from audiovq.hub import BUNDLED, codes_hash, model_folder, save_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's exported model, or a folder")
    parser.add_argument("--name", default="preview", help="of the bundled model")
    arguments = parser.parse_args()
    codec = SpeechCodec.from_pretrained(model_folder(arguments.run))
    codec.config["name"] = arguments.name
    folder = BUNDLED / arguments.name
    save_weights(codec, folder, torch.int8)
    size = (folder / "model.safetensors").stat().st_size / 1e6
    print(f"{folder}: {size:.1f} MB, hash {codes_hash(folder).hex()}")


if __name__ == "__main__":
    main()
