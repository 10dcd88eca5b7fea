"""How close coded pictures are, and what they cost."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.files import atomic_write
from audiovq.image.codec import ImageCodec
from audiovq.optional import need
from audiovq.prior.pixel import PixelPrior

if TYPE_CHECKING:
    from rich.table import Table

N_CROPS = 96
SIZE = 128
_BATCH = 8
_SHOWN = 12


@dataclass
class ImageReport:
    """Figures over all crops, and some crops to look at.

    Attributes:
        figures: what ``--json`` writes.
        shown: pictures above what was decoded of them, (N, C, H, W) in [0, 1] each.
    """

    figures: dict[str, Any]
    shown: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def write_json(self, path: str | Path) -> None:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.figures, indent=1) + "\n")

    def tables(self) -> list[Table]:
        from rich.table import Table

        figures = self.figures
        table = Table(title=f"{figures['crops']} crops of {figures['size']} pixels, {figures['split']}")
        for name in ("PSNR, dB", "SSIM", "bits/pixel of codes", "bits/dim, lossless bound", "with the prior"):
            table.add_column(name, justify="right")
        row = [f"{figures['psnr']:.2f}", f"{figures['ssim']:.3f}", f"{figures['code_bits_per_pixel']:.3f}"]
        coded = figures.get("bits_per_dim_with_prior")
        table.add_row(*row, f"{figures['bits_per_dim']:.3f}", "–" if coded is None else f"{coded:.3f}")
        return [table]

    def draw(self, path: str | Path) -> None:
        """Pictures above what was decoded of them."""
        if self.shown is not None:
            draw_rows(self.shown, path)


def psnr(found: Tensor, truth: Tensor) -> Tensor:
    """Pictures (B, C, H, W) in [0, 1] -> dB of each (B,)."""
    return -10 * torch.log10((found - truth).square().flatten(1).mean(1).clamp_min(1e-8))


def ssim(found: Tensor, truth: Tensor) -> Tensor:
    """Pictures (B, C, H, W) in [0, 1] -> structural similarity of each (B,) (Wang et al. 2004)."""
    similarity = need("torchmetrics.functional.image", "SSIM").structural_similarity_index_measure
    return similarity(found, truth, data_range=1.0, reduction="none").view(len(found), -1).mean(1)


@torch.inference_mode()
def measure_bound(model: Any, images: Tensor) -> dict[str, float]:
    """Means over pictures (N, C, H, W), sides multiples of the stride: see `audiovq.image.likelihoods`.

    ``bits_per_dim`` of squared error counts the mass of a Gaussian in each of 256 levels, so that it is a bound, too.
    Random draws are the same each time.
    """
    torch.manual_seed(0)
    sums: dict[str, float] = {}
    values = images[0].numel() * math.log(2)
    for batch in images.split(_BATCH):
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
def prior_bits(priors: Sequence[PixelPrior], codes: Sequence[Tensor]) -> list[float]:
    """Mean bits of a picture's codes under the priors, for each level."""
    found = []
    for level, (prior, own) in enumerate(zip(priors, codes, strict=True)):
        nats = 0.0
        for start in range(0, len(own), _BATCH):
            part = slice(start, start + _BATCH)
            coarser = codes[level - 1][part] if prior.context is not None else None
            nats += float(prior.nll(own[part], coarser=coarser).sum())
        found.append(nats / len(own) / math.log(2))
    return found


def evaluate_image(
    codec: ImageCodec, images: Tensor, split: str, about: dict[str, Any], priors: Sequence[PixelPrior] = ()
) -> ImageReport:
    """Judge a codec on crops (N, C, size, size) in [0, 1]; the size a multiple of its stride.

    Args:
        priors: of the codec's levels, when it has them; they must be for codes of this size.
    """
    figures = measure_bound(codec, images)
    with torch.inference_mode():
        batches = [codec.encode_batch(batch) for batch in images.split(_BATCH)]
    codes = [torch.cat(level) for level in zip(*batches, strict=True)]
    size = (images.shape[2], images.shape[3])
    figures["code_bits_per_pixel"] = codec.bits(size) / (size[0] * size[1])
    usage = [len(c.unique()) / n for c, (_, n, _) in zip(codes, codec.levels, strict=True)]
    told: dict[str, Any] = {**figures, "usage": usage}
    if priors and [p.size for p in priors] == codec.grid(size):
        bits = prior_bits(priors, codes)
        told["prior_bits_per_code"] = [b / c[0].numel() for b, c in zip(bits, codes, strict=True)]
        told["bits_per_dim_with_prior"] = figures["pixel_bits_per_dim"] + sum(bits) / images[0].numel()
    chosen = torch.linspace(0, len(images) - 1, min(_SHOWN, len(images))).long()
    shown = (images[chosen], codec.decode_batch([c[chosen] for c in codes]))
    return ImageReport({**about, "split": split, "crops": len(images), "size": size[0], **told}, shown)


def draw_rows(rows: Sequence[Tensor], path: str | Path, scale: int = 1, gap: int = 2) -> None:
    """Rows of pictures (N, C, H, W) in [0, 1], one above the other, as one picture."""
    image = need("PIL.Image", "drawing")
    strips = [
        torch.cat([F.pad(picture.expand(3, -1, -1), (0, gap, 0, gap), value=1.0) for picture in row], 2) for row in rows
    ]
    pixels = (torch.cat(strips, 1).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    drawn = image.fromarray(pixels)
    with atomic_write(path) as temporary:
        drawn.resize((drawn.width * scale, drawn.height * scale), 0).save(temporary)
