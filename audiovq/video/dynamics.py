"""Video prediction in the latent space of a frame codec: the distribution of the next frame, and its rollout."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.devices import arguments
from audiovq.errors import AudioVQError
from audiovq.hub import load_weights, model_folder, save_weights
from audiovq.image import ImageCodec
from audiovq.image.codec import check_pixels

MODES = ("mean", "likeliest", "sample")
_FINER = 4
"""Resolution of the motion map relative to the codes: objects move by fractions of a code's position."""
_IMAGE = 3  # channels of the map that learn the frame itself, so that motion is learned early in training
_FARTHEST = 4.0  # largest motion between two frames, in positions of codes


@dataclass
class NextFrame:
    """Prediction of the next frame."""

    logits: Tensor  # of its codes, (B, V, h, w)
    before: Tensor  # motion map of the frame before, (B, C, 4h, 4w); its first three channels are a rough image
    moved: Tensor  # the same after the motion


class ActionBlock(nn.Module):
    """Residual convolution modulated by a vector (Perez et al. 2018): (B, C, h, w), (B, S) -> (B, C, h, w)."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(condition, 2 * channels)
        self.mix = nn.Conv2d(channels, channels, 1)
        with torch.no_grad():
            self.mix.weight.mul_(0.3)  # near the identity at the start
            self.film.weight.mul_(0.3)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.spatial(self.norm(x))
        scale, shift = self.film(condition)[..., None, None].chunk(2, dim=1)
        return x + self.mix(F.silu(h + h * scale + shift))


class LatentDynamics(nn.Module):
    """A distribution over each code of the next frame (van den Oord et al. 2017, section 4.3), all codes at once.

    The latents of each past frame go through one small network (whose result can be cached), and a two-level
    convolutional network reads the last ``n_context`` of them with the actions. It predicts the motion of each position
    of the last frame, in a map four times finer than the codes (as Finn et al. 2016, section 3, do with pixels), and
    the codes after that motion. No frame is decoded: the map is computed from the latents.

    Some codes of the next frame can be given: the network is trained with random parts of the frame given, so that a
    frame can be sampled in a few steps, as in masked decoding (Chang et al. 2022), or at once.

    Args:
        codebook_size, latent_dim: of the frame codec's one codebook.
        n_context: frames read.
        n_actions: buttons. 0: a baseline that ignores actions.
        stem, fine, coarse: channels for each past frame, at the codes' resolution, and at half of it.
        n_fine, n_coarse: residual blocks at these resolutions.
        map_channels: of the motion map.
        condition: channels of the embedded actions.
        codec: the hash of the codec whose codes are modelled, hexadecimal; "" for any.
    """

    vectors: Tensor

    def __init__(
        self,
        codebook_size: int,
        latent_dim: int,
        n_context: int = 6,
        n_actions: int = 5,
        stem: int = 48,
        fine: int = 96,
        coarse: int = 96,
        n_fine: int = 3,
        n_coarse: int = 4,
        map_channels: int = 16,
        condition: int = 64,
        codec: str = "",
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = arguments(locals())
        self.codebook_size, self.n_context, self.n_actions, self.codec = codebook_size, n_context, n_actions, codec
        # The codec's vectors: latents are fed back, either of one code or the mean over all.
        self.register_buffer("vectors", torch.randn(codebook_size, latent_dim))
        self.stem = nn.Conv2d(latent_dim, stem, 3, padding=1)
        self.told = nn.Conv2d(latent_dim + 1, fine, 3, padding=1)
        self.gather = nn.Conv2d(n_context * stem, fine, 1)
        self.condition = nn.Sequential(nn.Linear(max(n_context * n_actions, 1), condition), nn.SiLU())
        self.down = nn.Conv2d(fine, coarse, 4, stride=2, padding=1)
        self.coarse = nn.ModuleList(ActionBlock(coarse, condition) for _ in range(n_coarse))
        self.up = nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1)
        self.motion = nn.Conv2d(fine, 2, 3, padding=1)
        self.draw = nn.Sequential(
            nn.Conv2d(latent_dim, 64, 3, padding=1), nn.SiLU(), nn.ConvTranspose2d(64, map_channels, 8, _FINER, 2)
        )
        self.read = nn.Conv2d(map_channels, fine, 8, _FINER, 2)
        self.fine = nn.ModuleList(ActionBlock(fine, condition) for _ in range(n_fine))
        self.head = nn.Sequential(nn.GroupNorm(8, fine), nn.SiLU(), nn.Conv2d(fine, codebook_size, 1))
        with torch.no_grad():
            self.motion.weight.mul_(0.1)  # almost no motion at the start

    def embed(self, codes: Tensor) -> Tensor:
        """Codes (B, 1, *dims) -> the codec's latents (B, D, *dims)."""
        return self.vectors[codes[:, 0]].movedim(-1, 1)

    def expected(self, logits: Tensor) -> Tensor:
        """The mean latents (B, D, h, w) of the distributions (B, V, h, w)."""
        return torch.einsum("bvhw,vd->bdhw", logits.float().softmax(1), self.vectors)

    def features(self, latents: Tensor) -> Tensor:
        """Latents of frames (B, D, T, h, w) -> features that later frames read, (B, S + D, T, h, w); latents last."""
        frames = latents.transpose(1, 2)
        read = self.stem(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)
        return torch.cat([read.to(latents.dtype), latents], 1)

    def forward(
        self, features: Tensor, actions: Tensor, given: Tensor | None = None, known: Tensor | None = None
    ) -> Tensor:
        """The logits of `predict`."""
        return self.predict(features, actions, given, known).logits

    def predict(
        self, features: Tensor, actions: Tensor, given: Tensor | None = None, known: Tensor | None = None
    ) -> NextFrame:
        """Predict the next frame.

        Args:
            features: of the last ``n_context`` frames, (B, S + D, n_context, h, w).
            actions: held from each of these frames to the next, (B, n_context, A).
            given: latents of the next frame, (B, D, h, w), read only where ``known`` (B, 1, h, w) is 1.

        Raises:
            AudioVQError: for another number of frames or actions.
        """
        expected = (self.n_context, self.n_actions)
        if features.shape[2] != self.n_context or (self.n_actions and actions.shape[1:] != expected):
            raise AudioVQError(
                f"the dynamics reads {self.n_context} frames with {self.n_actions} buttons, "
                f"got {features.shape[2]} frames and actions {tuple(actions.shape[1:])}"
            )
        height, width = features.shape[-2:]
        n_read = self.stem.out_channels
        held = actions.flatten(1).float() if self.n_actions else features.new_zeros(len(features), 1)
        condition = self.condition(2 * held - 1 if self.n_actions else held)
        x = self.gather(features[:, :n_read].flatten(1, 2))
        y = self.down(F.pad(x, (0, width % 2, 0, height % 2)))
        for block in self.coarse:
            y = block(y, condition)
        x = x + self.up(y)[..., :height, :width]
        before = self.draw(features[:, n_read:, -1])
        moved = shift(before, _FARTHEST * _FINER * torch.tanh(self.motion(x).float() / _FARTHEST))
        x = x + self.read(moved)
        if given is not None and known is not None:
            x = x + self.told(torch.cat([given * known, known], 1))
        else:
            x = x + self.told(x.new_zeros(len(x), self.told.in_channels, height, width))
        for block in self.fine:
            x = block(x, condition)
        return NextFrame(self.head(x), before, moved)

    def logits(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Logits (B, V, h, w) for latents (B, D, n_context, h, w) with no codes of the next frame given."""
        return self(self.features(latents), actions)


def shift(x: Tensor, motion: Tensor) -> Tensor:
    """Sample a map (B, C, H, W) at positions displaced by (B, 2, h, w), x and y in its pixels; edges are repeated."""
    height, width = x.shape[-2:]
    motion = F.interpolate(motion, (height, width), mode="bilinear", align_corners=False)
    rows = (torch.arange(height, device=x.device) + 0.5) * 2 / height - 1
    columns = (torch.arange(width, device=x.device) + 0.5) * 2 / width - 1
    positions = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], -1)
    scale = torch.tensor([2 / width, 2 / height], device=x.device)
    grid = positions + motion.movedim(1, -1) * scale
    return F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def rough_image(motion_map: Tensor) -> Tensor:
    """The rough image (B, 3, H, W) in the first channels of a motion map (B, C, H, W), about in [0, 1]."""
    return 0.5 + 0.5 * motion_map[:, :_IMAGE].float()


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
    the largest log probability plus Gumbel noise that decreases to zero. ``window`` are the features of the context.
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
    """The codec; raises `AudioVQError` when it has several levels or codebooks, which dynamics cannot model."""
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
