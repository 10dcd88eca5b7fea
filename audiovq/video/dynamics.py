"""The world's dynamics in latent space: codes of the next frame from six frames and the buttons held."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.errors import AudioVQError

# Each place of a frame comes from one of so many places around it in the frame before: turning moves rows sideways, by
# up to two places at a time.
_ROWS, _COLUMNS = 3, 9
_STAY = 3.0  # at the start: the logit of coming from the same place
_NEARNESS = 8.0  # and how likely codes near the expected latents are, in units of the codebook's variance


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

    Each past frame's latents go through one small network (its result can be kept), and a two-level convolutional
    network reads the last ``n_context`` of them with the actions. It says from where in the last frame each place comes
    (a filter for each place: De Brabandere et al. 2016, section 3) and what changes there; codes near the latents found
    in this way are likely, before the network gives its own logits. So it begins as a model that repeats the last
    frame. Codes of the next frame that are settled already can
    be told: the network learns with random parts of the frame told, so that a frame can be drawn in a few steps, as by
    masked decoding (Chang et al. 2022), or at once.

    Args:
        codebook_size, latent_dim: of the frame codec's one codebook.
        n_context: frames read.
        n_actions: buttons. 0: a model blind to actions, which it ignores.
        stem, fine, coarse: channels for each past frame, at the codes' resolution, and at half of it.
        n_fine, n_coarse: residual blocks.
        codec: the hash of the codec whose codes these are, hexadecimal; "" for any.
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
        coarse: int = 192,
        n_fine: int = 2,
        n_coarse: int = 5,
        condition: int = 128,
        codec: str = "",
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.codebook_size, self.n_context, self.n_actions, self.codec = codebook_size, n_context, n_actions, codec
        # The codec's vectors: what feeds back is a latent, of one code or a mean of many.
        self.register_buffer("vectors", torch.randn(codebook_size, latent_dim))
        self.stem = nn.Conv2d(latent_dim, stem, 3, padding=1)
        self.told = nn.Conv2d(latent_dim + 1, fine, 3, padding=1)
        self.gather = nn.Conv2d(n_context * stem, fine, 1)
        self.condition = nn.Sequential(nn.Linear(max(n_context * n_actions, 1), condition), nn.SiLU())
        self.down = nn.Conv2d(fine, coarse, 4, stride=2, padding=1)
        self.coarse = nn.ModuleList(ActionBlock(coarse, condition) for _ in range(n_coarse))
        self.up = nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1)
        self.fine = nn.ModuleList(ActionBlock(fine, condition) for _ in range(n_fine))
        self.norm = nn.Sequential(nn.GroupNorm(8, fine), nn.SiLU())
        self.origin = nn.Conv2d(fine, _ROWS * _COLUMNS, 1)
        self.change = nn.Conv2d(fine, latent_dim, 1)
        self.head = nn.Conv2d(fine, codebook_size, 1)
        self.log_nearness = nn.Parameter(torch.tensor(_NEARNESS).log())
        with torch.no_grad():
            for layer in (self.origin, self.change, self.head):
                layer.weight.mul_(0.1)
                layer.bias.zero_()
            self.origin.bias[_ROWS * _COLUMNS // 2] = _STAY

    def embed(self, codes: Tensor) -> Tensor:
        """Codes (B, 1, *dims) -> the codec's latents (B, D, *dims)."""
        return self.vectors[codes[:, 0]].movedim(-1, 1)

    def expected(self, logits: Tensor) -> Tensor:
        """The mean latents (B, D, h, w) of the distributions (B, V, h, w)."""
        return torch.einsum("bvhw,vd->bdhw", logits.float().softmax(1), self.vectors)

    def features(self, latents: Tensor) -> Tensor:
        """Latents of frames (B, D, T, h, w) -> what later frames read, (B, S + D, T, h, w) with the latents at the end."""
        frames = latents.transpose(1, 2)
        read = self.stem(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)
        return torch.cat([read.to(latents.dtype), latents], 1)

    def nearness(self, latents: Tensor) -> Tensor:
        """Logits (B, V, h, w) of codes by their squared distance to latents (B, D, h, w)."""
        spread = self.vectors.var(0).sum().clamp_min(1e-6)
        near = torch.einsum("bdhw,vd->bvhw", 2 * latents.float(), self.vectors)
        squared = self.vectors.square().sum(1)[:, None, None]
        return (near - squared) * (self.log_nearness.exp() / spread)

    def moved(self, latents: Tensor, weights: Tensor) -> Tensor:
        """Latents (B, D, h, w), each place a mean of those around it with weights from logits (B, R, h, w)."""
        shares = weights.float().softmax(1)
        rows, columns = _ROWS // 2, _COLUMNS // 2
        around = F.pad(latents.float(), (columns, columns, rows, rows), mode="replicate")
        height, width = latents.shape[-2:]
        found = torch.zeros_like(latents, dtype=torch.float32)
        for i in range(_ROWS * _COLUMNS):
            y, x = divmod(i, _COLUMNS)
            found = found + shares[:, i : i + 1] * around[:, :, y : y + height, x : x + width]
        return found

    def forward(
        self, features: Tensor, actions: Tensor, told: Tensor | None = None, known: Tensor | None = None
    ) -> Tensor:
        """Logits of the next frame's codes.

        Args:
            features: of the last ``n_context`` frames, (B, S + D, n_context, h, w).
            actions: held from each of these frames to the one after it, (B, n_context, A).
            told: latents of the next frame, (B, D, h, w), read only where ``known`` (B, 1, h, w) is 1.

        Returns:
            (B, codebook_size, h, w).

        Raises:
            AudioVQError: for another number of frames or buttons.
        """
        if features.shape[2] != self.n_context or (self.n_actions and actions.shape[1:] != self._actions_shape):
            raise AudioVQError(
                f"the dynamics reads {self.n_context} frames with {self.n_actions} buttons, "
                f"got {features.shape[2]} frames and actions {tuple(actions.shape[1:])}"
            )
        height, width = features.shape[-2:]
        held = actions.flatten(1).float() if self.n_actions else features.new_zeros(len(features), 1)
        condition = self.condition(2 * held - 1 if self.n_actions else held)
        n_read = self.stem.out_channels
        last = features[:, n_read:, -1]
        x = self.gather(features[:, :n_read].flatten(1, 2))
        if told is not None and known is not None:
            x = x + self.told(torch.cat([told * known, known], 1))
        else:
            x = x + self.told(x.new_zeros(len(x), self.told.in_channels, height, width))
        y = self.down(F.pad(x, (0, width % 2, 0, height % 2)))
        for block in self.coarse:
            y = block(y, condition)
        x = x + self.up(y)[..., :height, :width]
        for block in self.fine:
            x = block(x, condition)
        x = self.norm(x)
        likely = self.moved(last, self.origin(x)) + self.change(x)
        return self.head(x) + self.nearness(likely)

    def logits(self, latents: Tensor, actions: Tensor) -> Tensor:
        """What `forward` gives for latents (B, D, n_context, h, w) with nothing told."""
        return self(self.features(latents), actions)

    @property
    def _actions_shape(self) -> tuple[int, int]:
        return self.n_context, self.n_actions
