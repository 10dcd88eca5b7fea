"""Video prediction: the rollout of the dynamics in latent space, and the model that joins it with a frame codec."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.errors import AudioVQError
from audiovq.hub import load_weights, model_folder, save_weights
from audiovq.image import ImageCodec
from audiovq.image.codec import check_pixels
from audiovq.video.dynamics import LatentDynamics

MODES = ("mean", "likeliest", "sample")


@dataclass
class Rollout:
    """Predicted frames.

    Attributes:
        codes: (B, 1, T, h, w) int64; with mode "mean" the likeliest codes.
        latents: (B, D, T, h, w), the input of the next steps and of the frame decoder.
    """

    codes: Tensor
    latents: Tensor


@torch.no_grad()
def roll_out(
    dynamics: LatentDynamics,
    codes: Tensor,
    actions: Tensor,
    mode: str = "mean",
    n_steps: int = 8,
    temperature: float = 1.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Rollout:
    """Predict frames autoregressively, as many as there are actions for.

    Args:
        codes: of the ``n_context`` known frames, (B, 1, n_context, h, w).
        actions: (B, n_context - 1 + T, A); ``actions[:, i]`` is held between frames ``i`` and ``i + 1``.
        mode: "mean" feeds back the mean latents (sharp where the model is certain; the least squared error),
            "likeliest" the likeliest codes, "sample" codes sampled in ``n_steps`` passes (masked decoding).
        temperature, seed: for "sample".
        progress: called with the number of predicted frames and the total.

    Raises:
        AudioVQError: for another mode, or no action beyond the known frames.
    """
    n_frames = actions.shape[1] - dynamics.n_context + 1
    if mode not in MODES:
        raise AudioVQError(f"unknown mode {mode!r}; choose from {', '.join(MODES)}")
    if n_frames < 1:
        raise AudioVQError(f"give at least {dynamics.n_context} actions: one for each known frame")
    generator = torch.Generator().manual_seed(seed)
    # Each frame is read by several later ones; its features are computed once.
    window = dynamics.features(dynamics.embed(codes))
    all_codes, all_latents = [], []
    for i in range(n_frames):
        held = actions[:, i : i + dynamics.n_context]
        if mode == "sample":
            new = sample_frame(dynamics, window, held, n_steps, temperature, generator)
            latents = dynamics.embed(new[:, None])
        else:
            logits = dynamics(window, held)
            new = logits.argmax(1)
            latents = dynamics.expected(logits) if mode == "mean" else dynamics.embed(new[:, None])
        window = torch.cat([window[:, :, 1:], dynamics.features(latents[:, :, None])], 2)
        all_codes.append(new[:, None])
        all_latents.append(latents)
        if progress is not None:
            progress(i + 1, n_frames)
    return Rollout(torch.stack(all_codes, 2), torch.stack(all_latents, 2))


def sample_frame(
    dynamics: LatentDynamics,
    window: Tensor,
    actions: Tensor,
    n_steps: int,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """Sample the codes (B, h, w) of one frame by masked decoding: each pass fixes the most certain open codes.

    The number of open codes falls with a cosine (Chang et al. 2022, section 3.3); the most certain codes are those with
    the largest log probability plus Gumbel noise that decreases to zero.

    Args:
        window: features of the context frames, see `LatentDynamics.features`.
        actions: (B, n_context, A).
        n_steps: passes.
    """
    batch, (height, width) = len(window), window.shape[-2:]
    codes = torch.zeros(batch, height, width, dtype=torch.int64)
    known = torch.zeros(batch, 1, height, width)
    for step in range(n_steps):
        logits = dynamics(window, actions, dynamics.embed(codes[:, None]), known)
        rows = logits.float().movedim(1, -1).flatten(0, 2)
        if temperature > 0:
            rows = rows / temperature
            sampled = torch.multinomial(rows.softmax(-1), 1, generator=generator)[:, 0]
        else:
            sampled = rows.argmax(-1)
        certainty = rows.log_softmax(-1).gather(1, sampled[:, None]).view(batch, -1)
        noise = -torch.empty(certainty.shape).exponential_(generator=generator).log()
        certainty = certainty + temperature * noise * (1 - (step + 1) / n_steps)
        fixed = known.flatten(1).bool()
        codes = torch.where(fixed, codes.flatten(1), sampled.view(batch, -1)).view_as(codes)
        n_open = math.floor(math.cos(math.pi / 2 * (step + 1) / n_steps) * height * width)
        order = certainty.masked_fill(fixed, float("inf")).argsort(1, descending=True)
        known = torch.zeros_like(fixed).scatter_(1, order[:, : height * width - n_open], True)
        known = known.view(batch, 1, height, width).to(logits.dtype)
    return codes


class VideoModel(nn.Module):
    """Predicts video frames from six known frames and actions (van den Oord et al. 2017, section 4.3).

    Args:
        frames: the codec of single frames, with one level and one codebook.
        dynamics: trained on this codec's codes.

    Raises:
        AudioVQError: when they do not belong together.
    """

    def __init__(self, frames: ImageCodec, dynamics: LatentDynamics) -> None:
        super().__init__()
        self.frames, self.dynamics = check_frames(frames), dynamics
        if dynamics.codec not in ("", frames.model_hash.hex()):
            raise AudioVQError(
                f"the dynamics was trained on codes of model {dynamics.codec}, not on those of {frames.name} "
                f"({frames.model_hash.hex()}); train it again: audiovq train experiment=video_dynamics task.frames=DIR"
            )

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None, dynamics: str = "dynamics") -> VideoModel:
        """Load a bundled video model by name (default: ``doom``) or a folder with ``frames`` and ``dynamics``.

        Args:
            dynamics: which folder of dynamics: "dynamics", or "blind" for the baseline that ignores actions.

        Raises:
            AudioVQError: when there is no such model, or its files are damaged.
        """
        folder = model_folder(name_or_dir, "video")
        return cls(ImageCodec.from_pretrained(folder / "frames"), load_weights(LatentDynamics, folder / dynamics))

    def save(self, folder: str | Path) -> None:
        """Write both parts into the folders ``frames`` and ``dynamics``."""
        self.frames.save(Path(folder) / "frames")
        save_weights(self.dynamics, Path(folder) / "dynamics")

    def encode(self, video: Tensor) -> Tensor:
        """Video (B, 3, T, H, W), float in [0, 1] or uint8 -> codes (B, 1, T, h, w) int64; see `frame_codes`."""
        return frame_codes(self.frames, video)

    @torch.no_grad()
    def decode(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """Latents (B, D, T, h, w) -> video (B, 3, T, H, W) in [0, 1], ``size`` = (H, W)."""
        frames = [self.frames.mean_image(self.frames.decoder([part])) for part in latents.unbind(2)]
        return torch.stack(frames, 2)[..., : size[0], : size[1]]

    def predict(self, video: Tensor, actions: Tensor, **settings: Any) -> tuple[Tensor, Rollout]:
        """Predict the frames that follow.

        Args:
            video: the known frames, (B, 3, n_context, H, W), float in [0, 1] or uint8.
            actions: (B, n_context - 1 + T, A), see `roll_out`.
            **settings: ``mode``, ``n_steps``, ``temperature`` and ``seed`` of `roll_out`.

        Returns:
            (B, 3, T, H, W) in [0, 1], and their codes and latents.

        Raises:
            AudioVQError: for video or actions that do not fit.
        """
        rollout = roll_out(self.dynamics, self.encode(video), actions, **settings)
        return self.decode(rollout.latents, (video.shape[3], video.shape[4])), rollout


def check_frames(codec: ImageCodec) -> ImageCodec:
    """Check that the dynamics can model a codec's codes; returns the codec.

    Raises:
        AudioVQError: when it has several levels or codebooks.
    """
    if len(codec.levels) != 1 or codec.levels[0][0] != 1:
        raise AudioVQError(f"dynamics needs a frame codec with one level and one codebook; {codec.name} has more")
    return codec


@torch.no_grad()
def frame_codes(codec: ImageCodec, video: Tensor) -> Tensor:
    """Video (B, 3, T, H, W), float in [0, 1] or uint8 -> codes (B, 1, T, h, w) of its frames, all at once.

    Edges are repeated up to a multiple of the stride.

    Raises:
        AudioVQError: for another shape or type, and values outside of [0, 1] or not finite.
    """
    video = check_pixels(video, codec.image_channels, "video (B, {}, T, H, W)", codec.name)
    height, width = video.shape[-2:]
    frames = video.transpose(1, 2).flatten(0, 1)
    padded = F.pad(frames, (0, -width % codec.stride, 0, -height % codec.stride), mode="replicate")
    codes = codec.encode_batch(padded)[0]
    return codes.unflatten(0, (video.shape[0], video.shape[2])).transpose(1, 2)


def codebook_vectors(codec: ImageCodec) -> Tensor:
    """The quantized latents (V, D) of all codes of a frame codec."""
    codes = torch.arange(codec.levels[0][1]).view(1, 1, 1, -1)
    return codec.latents_of([codes])[0][0, :, 0].T.detach().clone()
