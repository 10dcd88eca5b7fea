"""Take the trained hierarchy of photographs and its priors into the package as the model ``photo``, with a model card.

    python recipes/images/bundle.py [--out DIR]

Run hierarchy.py before: its figures are those of the card.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from common import RESULTS, run_folder

from audiovq.errors import AudioVQError
from audiovq.hub import DEFAULTS, bundled_folder
from audiovq.image import ImageCodec
from audiovq.io import atomic_write
from audiovq.prior.image import ImagePrior, prior_folder
from recipes.model_card import HEADS

CARD = """# {name}

Image codec: VQ-VAE-2 (Razavi et al. 2019) with two levels and a PixelCNN prior for each level.
{weights:.1f} million parameters including the priors, which are stored in 8 bits.

* **Codes**: {levels}; {bits:.3f} bits per pixel.
* **Training**: `python recipes/images/hierarchy.py`, {steps} steps for the codec.
* **Data**: 128x128 crops of 30 of 39 photographs, scaled to a short side of 400 pixels, from the Debian packages
  lomiri-wallpapers-16.04 and -20.04 (CC-BY-4.0, CC-BY-SA-4.0, CC0-1.0; authors in the file names), mate-backgrounds
  (GPL-2+) and plasma-workspace-wallpapers (GPL-2+), prepared by `recipes/images/prepare.py`. The other nine photographs
  are the validation and test sets.
* **Licence of the weights**: trained on the sources above; where a licence extends to weights, they are shared under
  CC-BY-SA-4.0 and GPL-2+ with the attribution above. The code is Apache-2.0.
* **Hash in files**: `{hash}`.

## Figures

`python recipes/images/hierarchy.py`, {crops} crops of test photographs: PSNR {psnr:.2f} dB, SSIM {ssim:.3f}, mean
squared error {error:.2f}e-3; bound on lossless coding {bits_per_dim:.3f} bits per subpixel with a uniform
prior{with_prior}.
One level at the same rate, in the same run: PSNR {flat_psnr:.2f} dB, SSIM {flat_ssim:.3f}, mean squared error
{flat_error:.2f}e-3. (Measured before the priors were rounded to 8 bits.)

## Limitations

The training set is small: faces, text and drawings are blurred, and samples from the priors show textures rather than
scenes.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=bundled_folder("image") / DEFAULTS["image"])
    arguments = parser.parse_args()
    source, target = run_folder("image_hierarchy128"), arguments.out
    if not RESULTS.is_file() or "hierarchy" not in (results := json.loads(RESULTS.read_text())):
        raise AudioVQError("there are no figures for the card: run python recipes/images/hierarchy.py")
    codec = ImageCodec.from_pretrained(source)
    priors = ImagePrior.from_pretrained(source).priors
    codec.config["name"] = DEFAULTS["image"]
    codec.save(target)
    for level, prior in enumerate(priors):
        prior.save(prior_folder(target, level), torch.int8)
    bundled = ImagePrior.from_pretrained(target).codec  # refuses priors of other codes
    figures, flat = results["hierarchy"]["two levels"], results["hierarchy"]["one level"]
    with_prior = figures.get("bits_per_dim_with_prior")
    facts = {
        **figures,
        "name": DEFAULTS["image"],
        "weights": sum(p.numel() for model in (codec, *priors) for p in model.parameters()) / 1e6,
        "levels": ", ".join(f"{k} x log2({n}) bits per {s}x{s} pixels" for k, n, s in codec.levels),
        "bits": figures["code_bits_per_pixel"],
        "steps": json.loads((source / "training.json").read_text())["step"],
        "hash": bundled.model_hash.hex(),
        "with_prior": "" if with_prior is None else f", {with_prior:.3f} with the model's priors",
        "error": 1e3 * figures["mean_squared_error"],
        "flat_error": 1e3 * flat["mean_squared_error"],
        "flat_psnr": flat["psnr"],
        "flat_ssim": flat["ssim"],
    }
    with atomic_write(target / "README.md") as path:
        path.write_text(HEADS["photo"] + CARD.format(**facts))
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main()
    except AudioVQError as error:
        sys.exit(f"error: {error}")
