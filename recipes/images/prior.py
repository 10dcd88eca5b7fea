"""A PixelCNN over the codes of Fashion-MNIST, with classes: nats per code on held-out pictures, samples as a picture.

python recipes/images/prior.py [--steps N]
"""

from __future__ import annotations

import math
import time

import torch
from common import HERE, fit, fit_priors, fixed_crops, parse, show, write_results

from audiovq.data.images import FixedCrops, open_images
from audiovq.evaluation.plots import draw_rows
from audiovq.prior.image import ImagePrior

N = 2000


def main() -> None:
    arguments = parse(__doc__)
    fit("image_fashion", steps=arguments.steps)
    prior = ImagePrior.from_pretrained(fit_priors("image_fashion", "image_fashion_prior", steps=arguments.steps))
    crops = FixedCrops(open_images("fashion_mnist", "test"), 28, N)
    labels = torch.stack([crops[i]["label"] for i in range(len(crops))])
    codes = torch.cat([prior.codec.encode_batch(batch)[0] for batch in fixed_crops("image_fashion", N).split(100)])
    entries = prior.codec.levels[0][1]
    rows = [["uniform", math.log(entries)], ["each code by itself", unigram(codes, entries)]]
    with torch.inference_mode():
        for name, told in (("PixelCNN", torch.full_like(labels, -1)), ("PixelCNN, told the class", labels)):
            parts = zip(codes.split(100), told.split(100), strict=True)
            rows.append([name, float(torch.cat([prior.priors[0].nll(c, label=t) for c, t in parts]).mean())])
    show(f"nats per code, {len(codes)} test pictures", ["", "nats"], rows)
    start = time.perf_counter()
    drawn = [prior.codec.decode(prior.sample(12, label, seed=1)) for label in range(10)]
    seconds = time.perf_counter() - start
    draw_rows(drawn, HERE / "fashion_samples.png", scale=2)
    print(f"{HERE / 'fashion_samples.png'}: a row for each class; {120 / seconds:.0f} pictures a second")
    write_results("prior", {"pictures": len(codes), "nats_per_code": dict(rows)}, arguments)


def unigram(codes: torch.Tensor, entries: int) -> float:
    """Entropy in nats of the codes' own frequencies: what a prior without context could reach at best."""
    share = torch.bincount(codes.flatten(), minlength=entries).double() / codes.numel()
    return float(-torch.xlogy(share, share).sum())


if __name__ == "__main__":
    main()
