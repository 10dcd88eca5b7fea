"""Bits per dimension of the VQ-VAE, the VAE and categorical latents under one encoder and decoder, in one table.

    python recipes/images/bits.py [--steps N] [--validation]

Trains them (each resumes) and measures them on fixed 32x32 crops of test photographs. What is counted is a bound
on the length of a lossless code: the pixels' discretized logistic given the latents, plus the latents' divergence from
their prior: log2 K for each code of the VQ-VAE (uniform prior, certain posterior), the Kullback-Leibler divergence for
the two others. Latents are drawn from the posterior once; categories are drawn as they are, not relaxed.
"""

from __future__ import annotations

import torch
from common import HERE, fit, fixed_crops, parse, run_folder, show, write_results

from audiovq.evaluation.image import draw_rows, measure_bound
from audiovq.image import ImageCodec
from audiovq.image.baselines import ImageBaseline
from audiovq.weights import load_weights

MODELS = {
    "VQ-VAE": "image_vq32",
    "VAE": "image_vae32",
    "Gumbel-softmax": "image_gumbel32",
    "VQ-VAE, 8x8x10, K = 512": "image_vq32_512",
}
N_CROPS = 512


def main() -> None:
    arguments = parse(__doc__, "--validation")
    split = "validation" if arguments.validation else "test"
    fit(*MODELS.values(), steps=arguments.steps)
    crops = fixed_crops("image_vq32", N_CROPS, split)
    found, rows, shown = {}, [], [crops[:: N_CROPS // 16]]
    for name, run in MODELS.items():
        model = load_weights(ImageCodec if name.startswith("VQ") else ImageBaseline, run_folder(run))
        figures = measure_bound(model, crops)
        found[name] = figures
        rows.append([name, *(figures[f"{part}bits_per_dim"] for part in ("", "pixel_", "latent_")), figures["psnr"]])
        with torch.inference_mode():
            shown.append(picture_of(model, shown[0]))
    ratio = found["VQ-VAE"]["bits_per_dim"] / found["VAE"]["bits_per_dim"]
    title = f"{len(crops)} crops of 32x32, {split}"
    show(title, ["", "bits/dim", "of pixels", "of latents", "PSNR, dB"], rows)
    print(f"VQ-VAE / VAE: {ratio:.3f} (van den Oord et al. 2017: 4.67 / 4.51 = 1.035; VIMCO 5.14)")
    draw_rows(shown, HERE / "bits.png", scale=2)
    print(f"{HERE / 'bits.png'}: crops, and what {', '.join(MODELS)} decode")
    if split == "test":
        write_results("bits", {"crops": len(crops), "ratio_to_vae": ratio, "models": found}, arguments)


def picture_of(model: ImageCodec | ImageBaseline, images: torch.Tensor) -> torch.Tensor:
    """What comes back of pictures."""
    if isinstance(model, ImageCodec):
        return model.picture(model(images)[0])
    return model.bound(images).picture


if __name__ == "__main__":
    main()
