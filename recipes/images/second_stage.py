"""A second stage over 21x21 codes of first-person frames: three discrete latents are used, Gaussian ones are ignored.

    python recipes/video/record.py          # the frames, once
    python recipes/images/second_stage.py [--steps N]

The table tells for both, on held-out frames: the bits of the latents (27 for three of 512; the divergence of the
Gaussian ones), the entropy of the discrete ones, and by how many bits a frame the decoder does worse when it is told
the latents of another frame. The picture: frames, what 441 codes of 9 bits keep, and frames regenerated from 27 bits.
"""

from __future__ import annotations

import torch
from common import HERE, fit, fixed_crops, parse, run_folder, show, write_results
from torch import Tensor

from audiovq.evaluation.metrics import psnr
from audiovq.evaluation.plots import draw_rows
from audiovq.image import ImageCodec
from audiovq.prior import SamplingConfig
from audiovq.prior.image import SecondStage

N = 512
SHOWN = 10
RUNS = {"VQ-VAE": "image_second_vq", "VAE": "image_second_vae"}


def main() -> None:
    arguments = parse(__doc__)
    fit("image_frames84", *RUNS.values(), steps=arguments.steps)
    codec = ImageCodec.from_pretrained(run_folder("image_frames84"))
    frames = fixed_crops("image_frames84", N)
    codes = torch.cat([codec.encode_batch(batch)[0] for batch in frames.split(32)])
    shown = frames[:: N // SHOWN][:SHOWN]
    own = codes[:: N // SHOWN][:SHOWN]
    rows, found, pictures = [], {}, [shown, codec.decode_batch([own])[:, :, :84, :84]]
    for name, run in RUNS.items():
        model = SecondStage.from_pretrained(run_folder(run))
        figures = measure(model, codes)
        drawn = model.sample(model.latents(own), SamplingConfig(temperature=0.5), seed=1)
        pictures.append(codec.decode_batch([drawn])[:, :, :84, :84])
        figures["psnr_regenerated"] = float(psnr(pictures[-1], shown).mean())
        found[name] = figures
        rows.append([name, *figures.values()])
    show(f"{len(codes)} test frames", ["", *(name.replace("_", " ") for name in found["VQ-VAE"])], rows)
    draw_rows(pictures, HERE / "second_stage.png", scale=2)
    print(f"{HERE / 'second_stage.png'}: frames; their codes decoded; regenerated from 27 bits; from the VAE's latents")
    write_results("second_stage", found, arguments)


@torch.inference_mode()
def measure(model: SecondStage, codes: Tensor) -> dict[str, float]:
    """Bits a frame: of the latents, their entropy, of the codes given them, and lost with another frame's latents."""
    torch.manual_seed(0)
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in codes.split(32):
        bound = model.bound(batch)
        latents = model.latents(batch)
        right, wrong = (model.decoder.nll(batch, vectors=z).sum() for z in (latents, latents.roll(1, 0)))
        sums += torch.stack([bound.latents.sum(), bound.codes.sum(), wrong - right]).double()
    bits = (sums / len(codes) / torch.log(torch.tensor(2.0))).tolist()
    entropy = 0.0
    if model.quantizer is not None:
        for latent in model.encode(codes).unbind(1):
            share = latent.bincount(minlength=model.n_entries).double() / len(codes)
            entropy -= float(torch.xlogy(share, share).sum() / torch.log(torch.tensor(2.0)))
    return {
        "bits_of_latents": bits[0],
        "entropy_of_latents": entropy,
        "bits_of_codes": bits[1],
        "bits_lost_with_wrong_latents": bits[2],
    }


if __name__ == "__main__":
    main()
