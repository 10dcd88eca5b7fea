"""Put the trained speech model among the bundled ones, in 8 bits.

    python recipes/speech/bundle.py runs/speech/latest [--name speech]

Writes weights, configuration and graphs for ONNX Runtime, and prints the model's hash, which its card has to name. What
stands beside the weights is made for them, and has to be made again:

    python recipes/voice_conversion/make_speakers.py        # speakers.json
    python recipes/speech/entropy.py                        # entropy.safetensors
    python recipes/speech/concealment.py                    # concealment.safetensors
    python recipes/speech_generation/bundle.py              # prior/

Figures come from

    audiovq evaluate codec --split test,unseen
    audiovq evaluate conversion
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from audiovq import SpeechCodec
from audiovq.codec.onnx_export import export_onnx
from audiovq.hub import BUNDLED, codes_hash, model_folder, save_weights
from recipes.bundling import count_parameters, report, run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's exported model, or a folder")
    parser.add_argument("--name", default="speech", help="of the bundled model")
    parser.add_argument("--conversion-codebooks", type=int, default=2, help="that conversion uses by default")
    arguments = parser.parse_args()
    codec = SpeechCodec.from_pretrained(model_folder(arguments.run))
    codec.config |= {"name": arguments.name, "conversion_codebooks": arguments.conversion_codebooks}
    folder = BUNDLED / arguments.name
    save_weights(codec, folder, torch.int8)
    export_onnx(SpeechCodec.from_pretrained(folder), folder, folder)
    report(folder, count_parameters(codec), f"hash {codes_hash(folder).hex()}")


if __name__ == "__main__":
    run_script(main)
