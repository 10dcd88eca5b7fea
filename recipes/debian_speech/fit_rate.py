"""Let a trained model prefer codes of few bits: entropy-constrained choice of codes, without training anything.

python recipes/debian_speech/fit_rate.py [--model NAME|DIR] [--rate 0.3]

A code is then chosen by squared distance plus ``--rate`` times its bits, and the bits are fitted to an hour of the
training split (see `audiovq.quantize.Codebook`): ``quantizer.rate`` goes into config.json, the bits beside the weights,
which stay as they are, and so does what codes mean: files that were written before decode as before. What the choice
costs and saves on the validation split is printed. bundle.py calls it before the entropy model is fitted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load

from audiovq import SpeechCodec
from audiovq.data.corpora import open_corpora
from audiovq.data.utterance import Utterance
from audiovq.hub import model_folder, write_weights

RATE = 0.3
"""Chosen on validation: of 77 bits a frame (zero-order) 5.5 are saved, and 0.3 % of the latents' variance is lost."""


def latents_of(codec: SpeechCodec, utterances: Sequence[Utterance], minutes: float) -> torch.Tensor:
    """Latents (1, C, F) of utterances taken at random until they last so long."""
    found, wanted = [], round(minutes * 60 * codec.frame_rate)
    with torch.inference_mode():
        for i in np.random.default_rng(0).permutation(len(utterances)):
            samples = utterances[i].load()
            whole = len(samples) // codec.hop_length * codec.hop_length
            if whole:
                found.append(codec.encoder(torch.from_numpy(samples[:whole])[None, None]))
                wanted -= found[-1].shape[-1]
            if wanted <= 0:
                break
    return torch.cat(found, dim=-1)


def told(codec: SpeechCodec, latents: torch.Tensor) -> str:
    """Entropy of each book's codes, and what is left of the latents after each."""
    codes, left = codec.quantizer.encode(latents), latents
    parts = []
    for book, level in enumerate(codec.quantizer.levels):
        shares = torch.bincount(codes[0, book], minlength=codec.codebook_size) / codes.shape[-1]
        left = left - level.table()[codes[0, book]].t()[None]  # type: ignore[operator]
        bits = -(torch.xlogy(shares, shares)).sum() / np.log(2)
        parts.append(f"{bits:.2f} bits, {left.square().sum(1).mean():.2f}")
    return "; ".join(parts)


def main() -> None:
    """Fit, write, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a bundled model's name or a folder; without it the default model")
    parser.add_argument("--corpus", default="debian_speech")
    parser.add_argument("--rate", type=float, default=RATE, help="what a bit costs, in squared distance of latents")
    parser.add_argument("--minutes", type=float, default=60, help="of training speech the bits are fitted to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = model_folder(options.model)
    before = SpeechCodec.from_pretrained(folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config["quantizer"] |= {"rate": options.rate}
    codec = SpeechCodec(**config)
    codec.load_state_dict(before.state_dict(), strict=False)
    train, validation = (open_corpora([options.corpus], split) for split in ("train", "validation"))
    codec.eval().quantizer.count_bits(latents_of(codec, train, options.minutes))
    bits = {name: tensor for name, tensor in codec.state_dict().items() if name.endswith(".codebook.bits")}
    write_weights(load((folder / "model.safetensors").read_bytes()) | bits, config, folder)
    after, heard = SpeechCodec.from_pretrained(folder), latents_of(before, validation, options.minutes / 4)
    assert after.model_hash == before.model_hash
    print(f"by book, bits of its codes and squared distance left, on validation\nbefore: {told(before, heard)}")
    print(f"at a rate of {options.rate:g}: {told(after, heard)}")


if __name__ == "__main__":
    main()
