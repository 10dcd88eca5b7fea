"""Image codecs: distortion and bits per dimension on crops. Video prediction: quality, and the effect of actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from audiovq.data.episodes import BUTTONS, Episode, to_video
from audiovq.errors import AudioVQError, need
from audiovq.evaluation import plots
from audiovq.evaluation.metrics import psnr, ssim
from audiovq.evaluation.protocol import Progress, silent
from audiovq.evaluation.report import FiguresReport, make_table

if TYPE_CHECKING:
    from rich.table import Table

    from audiovq.image.codec import ImageCodec
    from audiovq.prior.pixel import PixelPrior
    from audiovq.video import VideoModel


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
    """Means over images (N, C, H, W), sides multiples of the stride: see `audiovq.image.nets`.

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
    """Evaluate a codec, with the priors of its levels, on crops (N, C, size, size) in [0, 1].

    The size is a multiple of its stride; priors for codes of other sizes are left out.
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


N_PREDICTED = 10
N_WINDOWS = 120
HIGHEST_PSNR = 50.0
"""Cap in dB: where nothing moves, repeating the last frame is without error."""
ROWS = {
    "": "dynamics with actions",
    "_blind_to_actions": "the same without actions",
    "_repeat_last": "repeating the last frame",
    "_codec": "reconstruction of the true frames",
}
"""Suffixes of the figures' names and what they are of."""


_WINDOWS_SHOWN = 6  # of the filmstrip


@dataclass
class VideoReport(FiguresReport):
    """Figures over all windows; ``shown``: truth and prediction of some, (3, T, H, W) in [0, 1] each."""

    shown: list[tuple[Tensor, Tensor]] = field(repr=False)

    def tables(self) -> list[Table]:
        f = self.figures
        title = f"{N_PREDICTED} predicted frames, {f['windows']} windows, {f['split']}"
        rows = [(name, f"{f['psnr' + key]:.2f}", f"{f['ssim' + key]:.3f}") for key, name in ROWS.items()]
        table = make_table(title, ("", "PSNR, dB", "SSIM"), rows)
        table.caption = (
            f"turns shift the image in the right directions from {f['action_direction_correct']:.1%} of "
            f"{f['starts']} starts"
        )
        return [table]

    def draw(self, path: str | Path) -> None:
        """A filmstrip, or with the suffix ``.gif`` an animation."""
        (plots.draw_animation if Path(path).suffix.lower() == ".gif" else plots.draw_filmstrip)(self.shown, path)


def evaluate_video(
    model: VideoModel,
    blind: VideoModel,
    episodes: Sequence[Episode],
    split: str,
    n_windows: int = N_WINDOWS,
    about: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> VideoReport:
    """Predict `N_PREDICTED` frames from windows spread evenly over the episodes; then turn both ways from each.

    A window's PSNR is of the mean squared error over all its predicted frames, its SSIM the mean of theirs.
    ``blind`` is the model without actions; for ``n_windows`` see `spread_windows`.

    Raises:
        AudioVQError: when no episode is long enough.
    """
    n_context = model.dynamics.n_context
    windows = spread_windows(episodes, n_context + N_PREDICTED, n_windows)
    scores: dict[str, list[Tensor]] = {}
    errors: dict[str, list[Tensor]] = {}
    directions: list[bool] = []
    shown: list[tuple[Tensor, Tensor]] = []
    for first in range(0, len(windows), _BATCH):
        progress("predicting", first, len(windows))
        part = windows[first : first + _BATCH]
        videos = torch.stack([to_video(e.frames[i : i + n_context + N_PREDICTED]) for e, i in part])
        held = [e.actions[i : i + n_context + N_PREDICTED - 1] for e, i in part]
        actions = torch.from_numpy(np.stack(held).astype(np.float32))
        past, truth = videos[:, :, :n_context], videos[:, :, n_context:]
        predicted = {
            "": model.predict(past, actions)[0],
            "_blind_to_actions": blind.predict(past, actions)[0],
            "_repeat_last": past[:, :, -1:].expand_as(truth),
            "_codec": model.decode(model.dynamics.embed(model.encode(truth)), (videos.shape[3], videos.shape[4])),
        }
        for name, pixels in predicted.items():
            scores.setdefault("psnr" + name, []).append(psnr(pixels, truth, HIGHEST_PSNR))
            scores.setdefault("ssim" + name, []).append(video_ssim(pixels, truth))
            errors.setdefault(name, []).append((pixels - truth).square().mean((1, 3, 4)))
        directions += turns_are_right(model, past, actions[:, : n_context - 1])
        shown += list(zip(truth, predicted[""], strict=True))
    figures: dict[str, Any] = {**(about or {}), "split": split, "windows": len(windows), "starts": len(directions)}
    figures |= {name: float(torch.cat(parts).mean()) for name, parts in scores.items()}
    figures["action_direction_correct"] = float(np.mean(directions))
    curves = {name: (-10 * torch.cat(parts).mean(0).log10()).tolist() for name, parts in errors.items()}
    figures["psnr_by_frame"] = {"dynamics" + name: curve for name, curve in curves.items()}
    chosen = np.linspace(0, len(shown) - 1, min(_WINDOWS_SHOWN, len(shown))).round().astype(int)
    return VideoReport(figures, [shown[i] for i in chosen])


def spread_windows(episodes: Sequence[Episode], n_frames: int, n: int) -> list[tuple[Episode, int]]:
    """``n`` windows (an episode and a start) spread evenly; 0: all that do not overlap.

    Raises:
        AudioVQError: when no episode is long enough.
    """
    places = [(episode, i) for episode in episodes for i in range(len(episode) - n_frames + 1)]
    if not places:
        raise AudioVQError(f"no episode has {n_frames} frames: record longer ones")
    count = min(n or len(places) // n_frames + 1, len(places))
    return [places[i] for i in np.linspace(0, len(places) - 1, count).round().astype(int)]


def video_ssim(pixels: Tensor, truth: Tensor) -> Tensor:
    """Mean structural similarity of the frames: (B, 3, T, H, W) in [0, 1] -> (B,)."""
    frames = (video.transpose(1, 2).flatten(0, 1) for video in (pixels, truth))
    return ssim(*frames).view(len(pixels), -1).mean(1)


def turns_are_right(model: VideoModel, past: Tensor, actions: Tensor) -> list[bool]:
    """Whether the image moves to the right while turning left, and to the left while turning right.

    ``past`` are the known frames (B, 3, n_context, H, W), ``actions`` held between them (B, n_context - 1, n_buttons).
    """
    shifts = []
    for button in ("turn_left", "turn_right"):
        turn = torch.zeros(len(past), N_PREDICTED, len(BUTTONS))
        turn[:, :, BUTTONS.index(button)] = 1
        predicted, _ = model.predict(past, torch.cat([actions, turn], 1))
        shifts.append([horizontal_shift(video) for video in torch.cat([past[:, :, -1:], predicted], 2)])
    return [left > 0 > right for left, right in zip(*shifts, strict=True)]


def horizontal_shift(video: Tensor) -> float:
    """Pixels that a video (3, T, H, W) moves to the right from frame to frame: the mean of its dense optical flow.

    The flow is by DIS (Kroeger et al. 2016) from OpenCV.
    """
    cv2 = need("cv2", "optical flow")
    grey = (video.mean(0).clamp(0, 1) * 255).byte().numpy()
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    steps = [flow.calc(grey[i], grey[i + 1], None)[..., 0].mean() for i in range(len(grey) - 1)]
    return float(np.mean(steps))
