"""Figures of predicted frames, and the direction of their flow."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics")
pytest.importorskip("cv2")

from audiovq.data.episodes import Episode
from audiovq.errors import AudioVQError
from audiovq.evaluation import visual as video
from audiovq.evaluation.metrics import psnr
from audiovq.image import ImageCodec
from audiovq.video import LatentDynamics, VideoModel


def texture(width: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    rough = torch.rand(1, 3, 12, width // 7, generator=random)
    return torch.nn.functional.interpolate(rough, (84, width), mode="bicubic").clamp(0, 1)[0]


def moving(pixels: int, n: int = 5) -> torch.Tensor:
    """A clip (3, n, 84, 84) that moves to the right by so many pixels a frame."""
    wide = texture(168)
    return torch.stack([wide[:, :, 42 - pixels * i : 126 - pixels * i] for i in range(n)], 1)


@pytest.mark.parametrize("pixels", [-6, -2, 2, 6])
def test_flow_has_the_sign_of_the_shift(pixels):
    assert np.sign(video.horizontal_shift(moving(pixels))) == np.sign(pixels)


def test_standing_still_has_a_finite_psnr():
    clip = moving(0)[None]
    assert psnr(clip, clip, video.HIGHEST_PSNR).tolist() == [50.0]
    torch.testing.assert_close(video.video_ssim(clip, clip), torch.ones(1))


def make_model(n_actions: int) -> VideoModel:
    torch.manual_seed(0)
    level = {"stride": 4, "latent_dim": 8, "quantizer": {"codebook_size": 16}}
    codec = ImageCodec([level], channels=16, residual=8, n_residual=1).eval()
    dynamics = LatentDynamics(16, 8, n_actions=n_actions, stem=8, fine=16, coarse=16, n_fine=1, n_coarse=1).eval()
    return VideoModel(codec, dynamics)


def test_the_report_has_its_figures_and_pictures(tmp_path):
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (20, 84, 84, 3), dtype=np.uint8)
    frames[10:] = frames[10]
    episode = Episode("e", "maze", "test", frames, random.integers(0, 2, (20, 5), dtype=np.uint8))
    report = video.evaluate_video(make_model(5), make_model(0), [episode], "test", n_windows=2)
    report.write_json(tmp_path / "f.json")
    figures = json.loads((tmp_path / "f.json").read_text())
    for name in ("psnr", "ssim"):
        for suffix in ("", "_repeat_last", "_blind_to_actions", "_codec"):
            assert np.isfinite(figures[name + suffix])
    assert 0 <= figures["action_direction_correct"] <= 1
    assert len(figures["psnr_by_frame"]["dynamics"]) == 10
    report.draw(tmp_path / "strip.png")
    report.draw(tmp_path / "strip.gif")
    from PIL import Image

    with Image.open(tmp_path / "strip.gif") as moving_picture:
        lengths = []
        for i in range(moving_picture.n_frames):  # frames that are alike may have become one
            moving_picture.seek(i)
            lengths.append(moving_picture.info["duration"])
        assert sum(lengths) == 1200
    assert "with actions" in str(report.tables()[0].columns[0]._cells)


def test_short_episodes_are_told():
    episode = Episode("e", "maze", "test", np.zeros((9, 84, 84, 3), np.uint8), np.zeros((9, 5), np.uint8))
    with pytest.raises(AudioVQError, match="no episode has 16 frames"):
        video.spread_windows([episode], 16, 4)
