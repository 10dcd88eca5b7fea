"""The image model that comes with the package."""

from pathlib import Path

import torch

import audiovq
from audiovq.evaluation.metrics import psnr
from audiovq.prior.image import ImagePrior

PRETRAINED = Path(audiovq.__file__).parent / "pretrained"


def hills(height: int, width: int) -> torch.Tensor:
    """A landscape: sky, and green waves in front of it."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    sky = torch.stack([0.4 + 0.3 * y, 0.6 + 0.2 * y, 0.9 - 0.1 * y])
    land = torch.stack([0.2 + 0.1 * torch.sin(9 * x), 0.4 + 0.2 * y, 0.1 + 0.1 * x])
    return torch.where(y > 0.5 + 0.1 * torch.sin(6 * x), land, sky)[None]


def test_an_image_comes_back():
    codec = audiovq.ImageCodec.from_pretrained()
    image = hills(90, 130)
    encoded = codec.encode(image)
    assert [tuple(c.shape) for c in encoded.codes] == [(1, 1, 12, 17), (1, 1, 24, 34)]
    decoded = codec.decode(encoded)
    assert decoded.shape == image.shape
    assert psnr(decoded, image).item() > 24


def test_its_priors_know_its_codes():
    """Real codes in their own places cost fewer bits than the uniform prior and than the same codes shuffled."""
    source = ImagePrior.from_pretrained()
    codes = source.codec.encode_batch(hills(128, 128))
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    shuffled = codes[0].flatten(2)[..., order].view_as(codes[0])
    top = source.priors[0]
    with torch.inference_mode():
        cost, cost_shuffled = (float(top.nll(field).sum()) for field in (codes[0], shuffled))
    assert cost < 256 * torch.tensor(256.0).log()
    assert cost < cost_shuffled


def test_image_and_video_models_stay_small():
    folders = [PRETRAINED / "images", PRETRAINED / "videos"]
    assert sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()) < 10e6
