"""Bits per dimension of the VQ-VAE, the VAE and categorical latents under one encoder and decoder, in one table.

    python recipes/images/bits.py [--steps N] [--validation]
    python recipes/images/bits.py --cifar10 DIR       # the paper's own models on its data; for a GPU

Trains them (each resumes) and measures them on fixed 32x32 crops of test photographs. What is counted is a bound
on the length of a lossless code: the pixels' discretized logistic given the latents, plus the latents' divergence from
their prior: log2 K for each code of the VQ-VAE (uniform prior, certain posterior), the Kullback-Leibler divergence for
the two others. Latents are drawn from the posterior once; categories are drawn as they are, not relaxed.

The VQ-VAE's prior is fitted afterwards (section 3.3 of the paper); a column tells the bound under a PixelCNN over its
codes, too. The other models' priors are part of their training and stay.
"""

from __future__ import annotations

from pathlib import Path

import torch
from common import HERE, fit, fit_priors, fixed_crops, parse, run_folder, show, write_results

from audiovq.evaluation.plots import draw_rows
from audiovq.evaluation.visual import evaluate_image, measure_bound
from audiovq.hub import load_weights
from audiovq.image import ImageCodec
from audiovq.image.nets import ImageBaseline
from audiovq.prior.image import load_priors

MODELS = {
    "VQ-VAE": "image_vq32",
    "VAE": "image_vae32",
    "Gumbel-softmax": "image_gumbel32",
    "VQ-VAE, 8x8x10, K = 512": "image_vq32_512",
}
COLUMNS = {
    "": "bits/dim",
    "pixel_": "of pixels",
    "latent_": "of latents",
    "with_prior_": "with PixelCNN prior",
}
PAPER = {"VQ-VAE": "codec", "VAE": "vae", "Gumbel-softmax": "gumbel"}
N_CROPS = 512


def main() -> None:
    arguments = parse(__doc__, "--validation", cifar10="folder with cifar-10-batches-py")
    split = "validation" if arguments.validation else "test"
    if arguments.cifar10:
        models, crops = of_the_paper(arguments.cifar10, split, arguments.steps)
    else:
        models = MODELS
        fit(*models.values(), steps=arguments.steps)
        for name in (name for name in models.values() if name.startswith("image_vq")):
            fit_priors(name, f"{name}_prior", steps=arguments.steps)
        crops = fixed_crops("image_vq32", N_CROPS, split)
    found, rows, shown = {}, [], [crops[:: N_CROPS // 16]]
    for name, run in models.items():
        folder = run_folder(run)
        model = ImageCodec.from_pretrained(folder) if name.startswith("VQ") else load_weights(ImageBaseline, folder)
        figures = measure_bound(model, crops) | with_prior(model, crops)
        found[name] = figures
        rows.append([name, *(figures.get(f"{part}bits_per_dim", "") for part in COLUMNS), figures["psnr"]])
        with torch.inference_mode():
            shown.append(model.bound(shown[0]).image)
    ratios = {part: found["VQ-VAE"].get(f"{part}bits_per_dim") for part in ("", "with_prior_")}
    ratios = {part: bits / found["VAE"]["bits_per_dim"] for part, bits in ratios.items() if bits is not None}
    title = f"{len(crops)} crops of 32x32, {split}"
    show(title, ["", *COLUMNS.values(), "PSNR, dB"], rows)
    print(f"VQ-VAE / VAE: {ratios['']:.3f} (van den Oord et al. 2017: 4.67 / 4.51 = 1.035; VIMCO 5.14)")
    if "with_prior_" in ratios:
        print(f"VQ-VAE with its PixelCNN prior / VAE: {ratios['with_prior_']:.3f}")
    draw_rows(shown, HERE / "bits.png", scale=2)
    print(f"{HERE / 'bits.png'}: crops, and what {', '.join(models)} decode")
    if split == "test":
        write_results(
            "bits_cifar10" if arguments.cifar10 else "bits",
            {"crops": len(crops)}
            | {f"{part}ratio_to_vae": ratio for part, ratio in ratios.items()}
            | {"models": found},
            arguments,
        )


def of_the_paper(root: Path, split: str, steps: int | None) -> tuple[dict[str, str], torch.Tensor]:
    """Train the paper's models on CIFAR-10: their runs, and pictures to measure them on."""
    data = [f"data.root={root}"]
    for kind in PAPER.values():
        fit("image_cifar10", steps=steps, overrides=[*data, f"name=image_cifar10_{kind}", f"+image.kind={kind}"])
    runs = {name: f"image_cifar10_{kind}" for name, kind in PAPER.items()}
    return runs, fixed_crops("image_cifar10", N_CROPS, split, data)


def with_prior(model: ImageCodec | ImageBaseline, crops: torch.Tensor) -> dict[str, float]:
    """The bound when codes cost what the priors in the model's folder say; nothing without such priors."""
    priors = load_priors(model) if isinstance(model, ImageCodec) else []
    if not isinstance(model, ImageCodec) or not priors:
        return {}
    report = evaluate_image(model, crops, "", {}, priors)
    return {"with_prior_bits_per_dim": report.figures["bits_per_dim_with_prior"]}


if __name__ == "__main__":
    main()
