"""Judging image codecs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("torchmetrics")

from audiovq.cli import main
from audiovq.data import images as image_data
from audiovq.data.images import FixedCrops
from audiovq.evaluation.metrics import psnr
from audiovq.evaluation.visual import evaluate_image
from audiovq.prior.image import prior_folder
from audiovq.prior.pixel import PixelPrior
from tests.image.conftest import ONE, TWO, smooth_images, started


def test_figures_are_those_of_the_bound_and_a_prior_replaces_the_uniform_one():
    codec = started(TWO, likelihood="logistic")
    images = smooth_images(10, 32, 32, seed=3)
    priors = [
        PixelPrior(k, n, grid, channels=8, n_layers=1, context=(1, 16, 2) if i else None).eval()
        for i, ((k, n, _), grid) in enumerate(zip(codec.levels, codec.grid((32, 32)), strict=True))
    ]
    for prior in priors:  # uniform, so that it changes nothing
        for head in prior.heads:
            torch.nn.init.zeros_(head[-1].weight)
            torch.nn.init.zeros_(head[-1].bias)
    report = evaluate_image(codec, images, "test", {}, priors)
    figures = report.figures
    with torch.inference_mode():
        assert figures["bits_per_dim"] == pytest.approx(float(codec.bound(images).bits_per_dim().mean()), rel=1e-4)
    assert figures["bits_per_dim_with_prior"] == pytest.approx(figures["bits_per_dim"], rel=1e-4)
    assert figures["prior_bits_per_code"] == pytest.approx([4.0, 3.0], rel=1e-3)
    assert figures["code_bits_per_pixel"] * 1024 == codec.bits((32, 32))
    assert figures["psnr"] == pytest.approx(float(psnr(codec.mean_image(codec(images)[0]), images).mean()), abs=0.01)
    json.dumps(figures, allow_nan=False)


def test_command_line(tmp_path, monkeypatch):
    codec = started(ONE, likelihood="logistic", name="small")
    codec.save(tmp_path / "model")
    PixelPrior(2, 16, (8, 8), channels=8, n_layers=1).save(prior_folder(tmp_path / "model", 0))
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(80):
        pixels = (smooth_images(1, 40, 34, seed=i)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    run = ["evaluate", "image", "--model", str(tmp_path / "model"), "--data", str(folder)]
    assert main([*run, "--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]) == 0
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["model"] == "small"
    assert set(told) >= {"bits_per_dim", "psnr", "ssim", "bits_per_dim_with_prior", "usage"}
    assert Image.open(tmp_path / "a.png").height > 64
    limits = []
    monkeypatch.setattr(image_data, "FixedCrops", lambda *of: limits.append(of[-1]) or FixedCrops(*of))
    for limit in ([], ["--limit", "36"], ["--limit", "2"]):
        assert main([*run, *limit, "--json", str(tmp_path / "a.json")]) == 0
    assert limits == [96, 36, 2]
    assert json.loads((tmp_path / "a.json").read_text())["crops"] == 2
