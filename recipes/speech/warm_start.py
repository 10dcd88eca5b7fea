"""Initial weights of the speech model with coded pitch, from models that were trained before.

    python recipes/speech/warm_start.py OUT [--pitch runs/pitch_tracker/latest]

The content trunk and its codebook come from the bundled model `tokens`, the detail trunk and the decoder's backbone
and head from `speech`, the speaker encoder from `conversion` (all of version 0.1), the pitch tracker from its own run.
Input channels that are new start at zero; detail codebooks, the gains of the decoder's sources and the conditioning of
the detail trunk start anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import load
from torch import Tensor

from audiovq.codec.codec import SpeechCodec
from audiovq.hub import BUNDLED, weights_folder, write_weights
from audiovq.training.run import compose


def read(folder: Path) -> dict[str, Tensor]:
    tensors = load((folder / "model.safetensors").read_bytes())
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def renamed(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {new + name[len(old) :]: tensor for name, tensor in tensors.items() if name.startswith(old)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pitch", default="runs/pitch_tracker/latest", help="the pitch tracker's weights")
    arguments = parser.parse_args()
    settings = OmegaConf.to_container(compose(["model=codec", "name=speech"]).model)
    torch.manual_seed(0)
    codec = SpeechCodec(**settings)  # type: ignore[arg-type]
    tokens, speech, conversion = (read(BUNDLED / name) for name in ("tokens", "speech", "conversion"))
    taken = {
        **renamed(tokens, "encoder.", "encoder.content."),
        **renamed(tokens, "quantizer.levels.0.codebook.", "quantizer.content.codebook."),
        **renamed(speech, "encoder.", "encoder.detail."),
        **renamed(speech, "decoder.", "decoder.backbone."),
        **renamed(speech, "decoder.head.project.", "decoder.direct."),
        **renamed(conversion, "speaker_encoder.", "speaker_encoder."),
        **renamed(read(weights_folder(arguments.pitch)), "", "pitch."),
    }
    own = codec.state_dict()
    first = {"encoder.detail.layers.0.weight": 0, "decoder.backbone.entry.weight": codec.quantizer.content_dim}
    for name, tensor in taken.items():
        if name not in own:
            continue
        if own[name].shape != tensor.shape:
            place = first[name]  # of its input channels among the new ones
            wider = torch.zeros_like(own[name])
            wider[:, place : place + tensor.shape[1]] = tensor
            tensor = wider
        own[name] = tensor
    codebook = "quantizer.content.codebook."
    own[codebook + "sums"] = own[codebook + "vectors"] * own[codebook + "counts"][:, None]
    codec.load_state_dict(own)
    write_weights(codec.state_dict(), codec.config, arguments.out, torch.float32)


if __name__ == "__main__":
    main()
