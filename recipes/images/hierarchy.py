"""VQ-VAE-2 against one level at the same number of bits on 128x128 photographs, and what each level holds.

python recipes/images/hierarchy.py [--steps N] [--no-priors]
"""

from __future__ import annotations

import torch
from common import HERE, fit, fit_priors, fixed_crops, parse, run_folder, show, write_results
from torch import Tensor

from audiovq.evaluation.image import draw_rows, evaluate_image
from audiovq.image import ImageCodec
from audiovq.prior.image import ImagePrior, load_priors

N_CROPS = 96


def main() -> None:
    arguments = parse(__doc__, "--no-priors")
    runs = {"one level": "image_flat128", "two levels": "image_hierarchy128"}
    fit(*runs.values(), steps=arguments.steps)
    two = run_folder(runs["two levels"])
    if not arguments.no_priors:
        fit_priors(runs["two levels"], "image_top_prior", "image_bottom_prior", steps=arguments.steps)
    crops = fixed_crops(runs["one level"], N_CROPS)
    found, rows, shown = {}, [], []
    for name, run in runs.items():
        codec = ImageCodec.from_pretrained(run_folder(run))
        report = evaluate_image(codec, crops, "test", {}, load_priors(codec))
        found[name] = report.figures | {"mean_squared_error": mean_squared_error(codec, crops)}
        bits = codec.bits((128, 128))
        rows.append([name, bits, found[name]["psnr"], found[name]["ssim"], 1e3 * found[name]["mean_squared_error"]])
        assert report.shown is not None
        shown += list(report.shown)[len(shown) > 0 :]
    show(f"{len(crops)} test crops", ["", "bits", "PSNR, dB", "SSIM", "squared error, 1e-3"], rows)
    draw_rows([*shown, *levels_apart(ImageCodec.from_pretrained(two), shown[0])], HERE / "hierarchy.png")
    print(f"{HERE / 'hierarchy.png'}: pictures; one level; two levels; top only; bottom only")
    if load_priors(ImageCodec.from_pretrained(two)):
        prior = ImagePrior.from_pretrained(two)
        draw_rows(prior.codec.decode(prior.sample(16, seed=1)).split(8), HERE / "hierarchy_samples.png")
    write_results("hierarchy", found, arguments)


@torch.inference_mode()
def mean_squared_error(codec: ImageCodec, images: Tensor) -> float:
    """Over all crops, pixels in [0, 1]."""
    errors = [(codec.pictures_of(codec.codes_of(x)) - x).square().mean(dim=(1, 2, 3)) for x in images.split(8)]
    return float(torch.cat(errors).mean())


@torch.inference_mode()
def levels_apart(codec: ImageCodec, images: Tensor) -> list[Tensor]:
    """Pictures decoded with one level's latents only, the other's replaced by their mean over all these pictures."""
    latents = codec.latents_of(codec.codes_of(images))
    found = []
    for kept in range(len(latents)):
        mixed = [z if i == kept else z.mean(dim=(0, 2, 3), keepdim=True).expand_as(z) for i, z in enumerate(latents)]
        found.append(codec.picture(codec.decoder(mixed)))
    return found


if __name__ == "__main__":
    main()
