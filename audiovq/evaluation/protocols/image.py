"""Image codecs: distortion and bits per dimension on crops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from audiovq.evaluation import plots
from audiovq.evaluation.metrics.signal import psnr, ssim
from audiovq.evaluation.protocol import Progress, silent
from audiovq.evaluation.report import FiguresReport, make_table

if TYPE_CHECKING:
    from rich.table import Table

    from audiovq.image.codec import ImageCodec
    from audiovq.prior.pixel import PixelPrior

N_CROPS = 96
SIZE = 128
_BATCH = 8
_SHOWN = 12


@dataclass
class ImageReport(FiguresReport):
    """Figures over all crops; ``shown``: some images and their reconstructions, (N, C, H, W) in [0, 1] each."""

    shown: tuple[Tensor, Tensor] = field(repr=False)

    def tables(self) -> list[Table]:
        figures = self.figures
        title = f"{figures['crops']} crops of {figures['size']} pixels, {figures['split']}"
        columns = ("PSNR, dB", "SSIM", "bits/pixel of codes", "bits/dim, lossless bound", "with the prior")
        coded = figures.get("bits_per_dim_with_prior")
        row = [f"{figures['psnr']:.2f}", f"{figures['ssim']:.3f}", f"{figures['code_bits_per_pixel']:.3f}"]
        row += [f"{figures['bits_per_dim']:.3f}", "–" if coded is None else f"{coded:.3f}"]
        return [make_table(title, columns, [row], n_left=0)]

    def draw(self, path: str | Path) -> None:
        """Images above their reconstructions."""
        plots.draw_rows(self.shown, path)


@torch.inference_mode()
def measure_bound(model: Any, images: Tensor, progress: Progress = silent) -> dict[str, float]:
    """Means over images (N, C, H, W), sides multiples of the stride: see `audiovq.image.likelihoods`.

    ``bits_per_dim`` of squared error counts the mass of a Gaussian in each of 256 levels, so that it is a bound, too.
    Random draws are the same each time.
    """
    torch.manual_seed(0)
    sums: dict[str, float] = {}
    values = images[0].numel() * math.log(2)
    for done, batch in enumerate(images.split(_BATCH)):
        progress("coding", done * _BATCH, len(images))
        bound = model.bound(batch)
        found = {
            "bits_per_dim": bound.bits_per_dim(),
            "pixel_bits_per_dim": bound.pixels / values,
            "latent_bits_per_dim": bound.latents / values,
            "psnr": psnr(bound.image, batch),
            "ssim": ssim(bound.image, batch),
        }
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + float(value.sum())
    return {name: value / len(images) for name, value in sums.items()}


@torch.inference_mode()
def prior_bits(priors: Sequence[PixelPrior], codes: Sequence[Tensor], progress: Progress = silent) -> list[float]:
    """Mean bits of an image's codes under the priors, for each level."""
    bits = []
    for level, (prior, fine) in enumerate(zip(priors, codes, strict=True)):
        nats = 0.0
        for start in range(0, len(fine), _BATCH):
            progress(f"prior of level {level + 1}", start, len(fine))
            part = slice(start, start + _BATCH)
            coarser = codes[level - 1][part] if prior.context is not None else None
            nats += float(prior.nll(fine[part], coarser=coarser).sum())
        bits.append(nats / len(fine) / math.log(2))
    return bits


def evaluate_image(
    codec: ImageCodec,
    images: Tensor,
    split: str,
    about: dict[str, Any],
    priors: Sequence[PixelPrior] = (),
    progress: Progress = silent,
) -> ImageReport:
    """Evaluate a codec on crops (N, C, size, size) in [0, 1]; the size a multiple of its stride.

    Args:
        codec: the model.
        images: the crops.
        split: name of their split, for the report.
        about: more for the report.
        priors: of the codec's levels, when it has them; they must be for codes of this size.
        progress: called with the progress.
    """
    figures: dict[str, Any] = dict(measure_bound(codec, images, progress))
    with torch.inference_mode():
        batches = [codec.encode_batch(batch) for batch in images.split(_BATCH)]
    codes = [torch.cat(level) for level in zip(*batches, strict=True)]
    size = (images.shape[2], images.shape[3])
    figures["code_bits_per_pixel"] = codec.bits(size) / (size[0] * size[1])
    figures["usage"] = [len(c.unique()) / n for c, (_, n, _) in zip(codes, codec.levels, strict=True)]
    if priors and [p.size for p in priors] == codec.grid(size):
        bits = prior_bits(priors, codes, progress)
        figures["prior_bits_per_code"] = [b / c[0].numel() for b, c in zip(bits, codes, strict=True)]
        figures["bits_per_dim_with_prior"] = figures["pixel_bits_per_dim"] + sum(bits) / images[0].numel()
    chosen = torch.linspace(0, len(images) - 1, min(_SHOWN, len(images))).long()
    shown = (images[chosen], codec.decode_batch([c[chosen] for c in codes]))
    return ImageReport({**about, "split": split, "crops": len(images), "size": size[0], **figures}, shown)
