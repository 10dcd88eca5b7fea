"""PSNR and SSIM of images and videos, by torchmetrics."""

from __future__ import annotations

from torch import Tensor

from audiovq.optional import need

HIGHEST_PSNR = 80.0
"""Cap in dB: images without any error would make a mean infinite."""


def psnr(pixels: Tensor, truth: Tensor, highest: float = HIGHEST_PSNR) -> Tensor:
    """Peak signal-to-noise ratio in dB, capped: (B, ...) in [0, 1] -> (B,).

    Raises:
        AudioVQError: when torchmetrics is not installed.
    """
    ratio = need("torchmetrics.functional.image", "PSNR").peak_signal_noise_ratio
    dims = tuple(range(1, pixels.ndim))
    return ratio(pixels, truth, data_range=1.0, reduction="none", dim=dims).clamp_max(highest)


def ssim(pixels: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): (B, C, H, W) in [0, 1] -> (B,).

    Raises:
        AudioVQError: when torchmetrics is not installed.
    """
    similarity = need("torchmetrics.functional.image", "SSIM").structural_similarity_index_measure
    return similarity(pixels, truth, data_range=1.0, reduction="none").view(len(pixels), -1).mean(1)
