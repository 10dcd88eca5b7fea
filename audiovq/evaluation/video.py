"""How well a world's frames are foreseen, and whether actions do what they should."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from audiovq.data.episodes import BUTTONS, Episode, to_video
from audiovq.errors import AudioVQError
from audiovq.evaluation.progress import Progress
from audiovq.files import atomic_write
from audiovq.optional import need
from audiovq.video import VideoModel

if TYPE_CHECKING:
    from rich.table import Table

N_PREDICTED = 10
N_WINDOWS = 120
_BATCH = 8
_SHOWN = 6  # windows of the filmstrip
_HIGHEST_PSNR = 50.0
"""Where nothing moves, repeating the last frame is without error: its decibels are capped, or the mean had no end."""


@dataclass
class VideoReport:
    """Figures over all windows, and some predictions to look at.

    Attributes:
        figures: what ``--json`` writes.
        shown: truth and prediction of some windows, (3, T, H, W) in [0, 1] each.
    """

    figures: dict[str, Any]
    shown: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False)

    def write_json(self, path: str | Path) -> None:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.figures, indent=1) + "\n")

    def tables(self) -> list[Table]:
        from rich.table import Table

        table = Table(title=f"{N_PREDICTED} frames ahead, {self.figures['windows']} windows, {self.figures['split']}")
        for name in ("", "PSNR, dB", "SSIM"):
            table.add_column(name)
        for suffix, told in ROWS.items():
            table.add_row(told, f"{self.figures['psnr' + suffix]:.2f}", f"{self.figures['ssim' + suffix]:.3f}")
        starts, right = self.figures["starts"], self.figures["action_direction_correct"]
        table.caption = f"turns shift the picture in the right directions from {right:.1%} of {starts} starts"
        return [table]

    def draw(self, path: str | Path) -> None:
        """A filmstrip (truth above prediction), or with the suffix ``.gif`` the same as it moves."""
        from audiovq.evaluation.filmstrip import draw_animation, draw_filmstrip

        (draw_animation if Path(path).suffix.lower() == ".gif" else draw_filmstrip)(self.shown, path)


ROWS = {
    "": "dynamics with actions",
    "_blind_to_actions": "the same, blind to actions",
    "_repeat_last": "repeating the last frame",
    "_codec": "the true frames through the codec",
}
"""What the endings of the figures' names stand for."""


def evaluate_video(
    model: VideoModel,
    blind: VideoModel,
    episodes: Sequence[Episode],
    split: str,
    n_windows: int = N_WINDOWS,
    about: dict[str, Any] | None = None,
    progress: Progress = lambda what, done, total: None,
) -> VideoReport:
    """Predict `N_PREDICTED` frames from windows spread evenly over the episodes; then turn both ways from each.

    A window's PSNR is of the mean squared error over all its predicted frames, its SSIM the mean of theirs.
    """
    n_context = model.dynamics.n_context
    windows = spread_windows(episodes, n_context + N_PREDICTED, n_windows)
    sums: dict[str, list[Tensor]] = {}
    errors: dict[str, list[Tensor]] = {}
    directions: list[bool] = []
    shown: list[tuple[Tensor, Tensor]] = []
    for first in range(0, len(windows), _BATCH):
        progress("predicting", first, len(windows))
        part = windows[first : first + _BATCH]
        clips = torch.stack([to_video(e.frames[i : i + n_context + N_PREDICTED]) for e, i in part])
        held = [e.actions[i : i + n_context + N_PREDICTED - 1] for e, i in part]
        actions = torch.from_numpy(np.stack(held).astype(np.float32))
        past, truth = clips[:, :, :n_context], clips[:, :, n_context:]
        predicted = {
            "": model.predict(past, actions)[0],
            "_blind_to_actions": blind.predict(past, actions)[0],
            "_repeat_last": past[:, :, -1:].expand_as(truth),
            "_codec": model.decode(model.dynamics.embed(model.encode(truth)), (clips.shape[3], clips.shape[4])),
        }
        for name, found in predicted.items():
            sums.setdefault("psnr" + name, []).append(window_psnr(found, truth))
            sums.setdefault("ssim" + name, []).append(window_ssim(found, truth))
            errors.setdefault(name, []).append((found - truth).square().mean((1, 3, 4)))
        directions += turns_are_right(model, past, actions[:, : n_context - 1])
        shown += list(zip(truth, predicted[""], strict=True))
    progress("predicting", len(windows), len(windows))
    figures: dict[str, Any] = {**(about or {}), "split": split, "windows": len(windows), "starts": len(directions)}
    figures |= {name: float(torch.cat(parts).mean()) for name, parts in sums.items()}
    figures["action_direction_correct"] = float(np.mean(directions))
    curves = {name: (-10 * torch.cat(parts).mean(0).log10()).tolist() for name, parts in errors.items()}
    figures["psnr_by_frame"] = {"dynamics" + name: curve for name, curve in curves.items()}
    chosen = np.linspace(0, len(shown) - 1, min(_SHOWN, len(shown))).round().astype(int)
    return VideoReport(figures, [shown[i] for i in chosen])


def spread_windows(episodes: Sequence[Episode], n_frames: int, n: int) -> list[tuple[Episode, int]]:
    """So many windows (an episode, and where it begins) spread evenly; 0: all that do not overlap.

    Raises:
        AudioVQError: when no episode is long enough.
    """
    places = [(episode, i) for episode in episodes for i in range(len(episode) - n_frames + 1)]
    if not places:
        raise AudioVQError(f"no episode has {n_frames} frames: record longer ones")
    count = min(n or len(places) // n_frames + 1, len(places))
    return [places[i] for i in np.linspace(0, len(places) - 1, count).round().astype(int)]


def window_psnr(found: Tensor, truth: Tensor) -> Tensor:
    """Clips (B, 3, T, H, W) in [0, 1] -> decibels (B,), capped."""
    metrics = need("torchmetrics.functional.image", "PSNR")
    ratio = metrics.peak_signal_noise_ratio
    values = [ratio(a[None], b[None], data_range=1.0) for a, b in zip(found, truth, strict=True)]
    return torch.stack(values).clamp_max(_HIGHEST_PSNR)


def window_ssim(found: Tensor, truth: Tensor) -> Tensor:
    """Clips (B, 3, T, H, W) in [0, 1] -> the mean structural similarity of their frames, (B,)."""
    similarity = need("torchmetrics.functional.image", "SSIM").structural_similarity_index_measure
    a, b = (clip.transpose(1, 2).flatten(0, 1) for clip in (found, truth))
    return similarity(a, b, data_range=1.0, reduction="none").view(len(found), -1).mean(1)


def turns_are_right(model: VideoModel, past: Tensor, actions: Tensor) -> list[bool]:
    """Whether the picture moves to the right when turning left is held, and to the left when turning right is.

    Args:
        past: the known frames, (B, 3, n_context, H, W).
        actions: held between them, (B, n_context - 1, n_buttons).
    """
    shifts = []
    for button in ("turn_left", "turn_right"):
        turn = torch.zeros(len(past), N_PREDICTED, len(BUTTONS))
        turn[:, :, BUTTONS.index(button)] = 1
        predicted, _ = model.predict(past, torch.cat([actions, turn], 1))
        clips = torch.cat([past[:, :, -1:], predicted], 2)
        shifts.append([horizontal_shift(clip) for clip in clips])
    return [left > 0 > right for left, right in zip(*shifts, strict=True)]


def horizontal_shift(clip: Tensor) -> float:
    """Pixels by which a clip (3, T, H, W) moves to the right from frame to frame: the mean of its dense optical flow.

    The flow is by DIS (Kroeger et al. 2016) from OpenCV.
    """
    cv2 = need("cv2", "optical flow")
    grey = (clip.mean(0).clamp(0, 1) * 255).byte().numpy()
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    steps = [flow.calc(grey[i], grey[i + 1], None)[..., 0].mean() for i in range(len(grey) - 1)]
    return float(np.mean(steps))
