"""Small image codecs, initialised on smooth images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from audiovq.image import ImageCodec


def smooth_images(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth colour fields (n, 3, height, width) in [0, 1]."""
    noise = torch.rand(n, 3, height // 4 + 2, width // 4 + 2, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)


def started(levels, **settings) -> ImageCodec:
    torch.manual_seed(0)
    codec = ImageCodec(levels, channels=16, residual=8, n_residual=1, **settings)
    codec.train()
    codec(smooth_images(8, 32, 32))
    return codec.eval()


ONE = [{"stride": 4, "latent_dim": 6, "quantizer": {"kind": "product", "n_codebooks": 2, "codebook_size": 16}}]
TWO = [
    {"stride": 8, "latent_dim": 6, "quantizer": {"codebook_size": 16}},
    {"stride": 4, "latent_dim": 6, "quantizer": {"n_codebooks": 2, "codebook_size": 8}},
]


@pytest.fixture(params=["one", "two"])
def codec(request):
    return started(ONE if request.param == "one" else TWO, tile=32)
