"""VQ-VAE-2 against one level at the same number of bits, on 128x128 photographs and on frames of a 3-D world.

    python recipes/images/hierarchy.py [--steps N] [--no-priors] [--only photographs|frames]

Trains what is not trained yet, prints a table for each kind of picture, and draws what each level holds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from common import HERE, fit, fit_priors, fixed_crops, parser_of, run_folder, show, write_results
from torch import Tensor

from audiovq.evaluation.plots import draw_rows
from audiovq.evaluation.visual import evaluate_image
from audiovq.image import ImageCodec
from audiovq.prior.image import ImagePrior, load_priors


@dataclass(frozen=True)
class Comparison:
    """Two models with as many bits on the same pictures.

    Attributes:
        stage: name in results.json, and of the picture.
        one, two: runs with one level and with two.
        n_crops: of the test pictures, at most.
        priors: runs of the priors of the two levels, coarse to fine.
    """

    stage: str
    one: str
    two: str
    n_crops: int
    priors: tuple[str, ...] = ()


COMPARISONS = {
    "photographs": Comparison(
        "hierarchy", "image_flat128", "image_hierarchy128", 96, ("image_top_prior", "image_bottom_prior")
    ),
    "frames": Comparison("hierarchy_frames", "image_flat_frames", "image_hierarchy_frames", 512),
}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--no-priors", action="store_true", help="train and draw from none")
    parser.add_argument("--only", choices=sorted(COMPARISONS), help="one kind of picture")
    arguments = parser.parse_args()
    for pictures, comparison in COMPARISONS.items():
        if arguments.only in (None, pictures):
            compare(pictures, comparison, arguments)


def compare(pictures: str, comparison: Comparison, arguments: argparse.Namespace) -> None:
    """Train both, measure both on the same test crops, draw them."""
    fit(comparison.one, comparison.two, steps=arguments.steps)
    with_priors = bool(comparison.priors) and not arguments.no_priors
    if with_priors:
        fit_priors(comparison.two, *comparison.priors, steps=arguments.steps)
    crops = fixed_crops(comparison.one, comparison.n_crops)
    found: dict[str, dict[str, Any]] = {}
    rows, shown, errors = [], [], []
    for name, run in (("one level", comparison.one), ("two levels", comparison.two)):
        codec = ImageCodec.from_pretrained(run_folder(run))
        report = evaluate_image(codec, crops, "test", {}, load_priors(codec) if with_priors else ())
        errors.append(squared_errors(codec, crops))
        figures = found[name] = report.figures | {"mean_squared_error": float(errors[-1].mean())}
        bits = codec.bits((crops.shape[-2], crops.shape[-1]))
        rows.append([name, bits, figures["psnr"], figures["ssim"], 1e3 * figures["mean_squared_error"]])
        assert report.shown is not None
        shown += list(report.shown)[len(shown) > 0 :]
    show(f"{len(crops)} test crops, {pictures}", ["", "bits", "PSNR, dB", "SSIM", "squared error, 1e-3"], rows)
    lower = float((errors[1] < errors[0]).float().mean())
    print(f"the squared error of two levels is the lower in {lower:.0%} of crops")
    found["two levels"]["lower_error_share"] = lower
    two = ImageCodec.from_pretrained(run_folder(comparison.two))
    target = HERE / f"{comparison.stage}.png"
    draw_rows([*shown, *levels_apart(two, shown[0])], target)
    print(f"{target}: pictures; one level; two levels; top only; bottom only")
    if with_priors:
        prior = ImagePrior.from_pretrained(run_folder(comparison.two))
        draw_rows(prior.codec.decode(prior.sample(16, seed=1)).split(8), HERE / f"{comparison.stage}_samples.png")
    write_results(comparison.stage, found, arguments)


@torch.inference_mode()
def squared_errors(codec: ImageCodec, images: Tensor) -> Tensor:
    """Mean squared error of each picture (N, C, H, W), pixels in [0, 1]: (N,)."""
    errors = [(codec.decode_batch(codec.encode_batch(x)) - x).square().mean(dim=(1, 2, 3)) for x in images.split(8)]
    return torch.cat(errors)


@torch.inference_mode()
def levels_apart(codec: ImageCodec, images: Tensor) -> list[Tensor]:
    """Pictures decoded with one level's latents only, the other's replaced by their mean over all these pictures."""
    latents = codec.latents_of(codec.encode_batch(images))
    found = []
    for kept in range(len(latents)):
        mixed = [z if i == kept else z.mean(dim=(0, 2, 3), keepdim=True).expand_as(z) for i, z in enumerate(latents)]
        found.append(codec.mean_image(codec.decoder(mixed)))
    return found


if __name__ == "__main__":
    main()
