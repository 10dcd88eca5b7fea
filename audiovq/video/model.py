"""The video model: a frame codec and the dynamics of its codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.errors import AudioVQError
from audiovq.image import ImageCodec
from audiovq.video.checkpoint import video_folder
from audiovq.video.dynamics import LatentDynamics
from audiovq.video.rollout import Rollout, roll_out
from audiovq.weights import load_weights, save_weights


class VideoModel(nn.Module):
    """Predicts frames of a world from six of them and the buttons held (van den Oord et al. 2017, section 4.3).

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
                f"({frames.model_hash.hex()}); train it again: audiovq train experiment=video_dynamics"
            )

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None, dynamics: str = "dynamics") -> VideoModel:
        """Load a bundled video model by name (default: ``doom``) or a folder with ``frames`` and ``dynamics``.

        Args:
            dynamics: which folder of dynamics: "dynamics", or "blind" for the one that is not told the actions.

        Raises:
            AudioVQError: when there is no such model, or its files are damaged.
        """
        folder = video_folder(name_or_dir)
        return cls(ImageCodec.from_pretrained(folder / "frames"), load_weights(LatentDynamics, folder / dynamics))

    def save(self, folder: str | Path) -> None:
        """Write both parts."""
        self.frames.save(Path(folder) / "frames")
        save_weights(self.dynamics, Path(folder) / "dynamics")

    def encode(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) in [0, 1] -> codes (B, 1, T, h, w) int64."""
        return frame_codes(self.frames, clips)

    @torch.inference_mode()
    def decode(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """Latents (B, D, T, h, w) -> clips (B, 3, T, H, W) in [0, 1], ``size`` = (H, W)."""
        pictures = [self.frames.picture(self.frames.decoder([part])) for part in latents.unbind(2)]
        return torch.stack(pictures, 2)[..., : size[0], : size[1]]

    def predict(self, clips: Tensor, actions: Tensor, **how: Any) -> tuple[Tensor, Rollout]:
        """Frames that follow.

        Args:
            clips: the known frames, (B, 3, n_context, H, W) in [0, 1].
            actions: (B, n_context - 1 + T, A), see `roll_out`.
            **how: ``mode``, ``n_steps``, ``temperature`` and ``seed`` of `roll_out`.

        Returns:
            (B, 3, T, H, W) in [0, 1], and their codes and latents.
        """
        rollout = roll_out(self.dynamics, self.encode(clips), actions, **how)
        return self.decode(rollout.latents, (clips.shape[3], clips.shape[4])), rollout


def check_frames(codec: ImageCodec) -> ImageCodec:
    """Give the codec back when the dynamics can model its codes.

    Raises:
        AudioVQError: when it has several levels or codebooks.
    """
    if len(codec.levels) != 1 or codec.levels[0][0] != 1:
        raise AudioVQError(f"dynamics needs a frame codec with one level and one codebook; {codec.name} has more")
    return codec


@torch.inference_mode()
def frame_codes(codec: ImageCodec, clips: Tensor) -> Tensor:
    """Clips (B, 3, T, H, W) in [0, 1] -> codes (B, 1, T, h, w); edges are repeated up to a multiple of the stride."""
    height, width = clips.shape[-2:]
    pictures = clips.transpose(1, 2).flatten(0, 1)
    padded = F.pad(pictures, (0, -width % codec.stride, 0, -height % codec.stride), mode="replicate")
    codes = codec.codes_of(padded)[0]
    return codes.unflatten(0, (clips.shape[0], clips.shape[2])).transpose(1, 2)


def codebook_vectors(codec: ImageCodec) -> Tensor:
    """The latents (V, D) that the codes of a frame codec stand for."""
    codes = torch.arange(codec.levels[0][1]).view(1, 1, 1, -1)
    return codec.latents_of([codes])[0][0, :, 0].T.detach().clone()
