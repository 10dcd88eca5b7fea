"""Frames ahead: the dynamics fed with what it predicted, all in latent space."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from audiovq.errors import AudioVQError
from audiovq.video.dynamics import LatentDynamics

MODES = ("mean", "likeliest", "sample")


@dataclass
class Rollout:
    """Predicted frames.

    Attributes:
        codes: (B, 1, T, h, w) int64; with "mean" those that are likeliest.
        latents: (B, D, T, h, w), what was fed back and what a decoder gets.
    """

    codes: Tensor
    latents: Tensor


@torch.inference_mode()
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
    """Predict as many frames as there are actions for.

    Args:
        codes: of the ``n_context`` frames that are known, (B, 1, n_context, h, w).
        actions: (B, n_context - 1 + T, A); ``actions[:, i]`` leads from frame ``i`` to frame ``i + 1``.
        mode: "mean" feeds back the mean latents (sharp where the model is sure; the least squared error), "likeliest"
            the likeliest codes, "sample" codes drawn in ``n_steps`` passes (masked decoding).
        temperature, seed: of "sample".
        progress: is told frames done and frames in all.

    Raises:
        AudioVQError: for another mode, or no action that leads beyond the known frames.
    """
    n_frames = actions.shape[1] - dynamics.n_context + 1
    if mode not in MODES:
        raise AudioVQError(f"no way {mode!r} of predicting: there are {', '.join(MODES)}")
    if n_frames < 1:
        raise AudioVQError(f"give at least {dynamics.n_context} actions: one for each known frame")
    generator = torch.Generator().manual_seed(seed)
    # Each frame is read by several later ones; its features are computed once.
    window = dynamics.features(dynamics.embed(codes))
    found_codes, found_latents = [], []
    for i in range(n_frames):
        held = actions[:, i : i + dynamics.n_context]
        if mode == "sample":
            new = draw_frame(dynamics, window, held, n_steps, temperature, generator)
            latents = dynamics.embed(new[:, None])
        else:
            logits = dynamics(window, held)
            new = logits.argmax(1)
            latents = dynamics.expected(logits) if mode == "mean" else dynamics.embed(new[:, None])
        window = torch.cat([window[:, :, 1:], dynamics.features(latents[:, :, None])], 2)
        found_codes.append(new[:, None])
        found_latents.append(latents)
        if progress is not None:
            progress(i + 1, n_frames)
    return Rollout(torch.stack(found_codes, 2), torch.stack(found_latents, 2))


def draw_frame(
    dynamics: LatentDynamics,
    window: Tensor,
    actions: Tensor,
    n_steps: int,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """Codes (B, h, w) of one frame, drawn in passes: each settles the surest of what is open (Chang et al. 2022).

    How many are open after a pass falls with a cosine (ibid., section 3.3); the surest are chosen by the logarithm of
    their probability with Gumbel noise that falls to zero.
    """
    batch, (height, width) = len(window), window.shape[-2:]
    codes = torch.zeros(batch, height, width, dtype=torch.int64)
    known = torch.zeros(batch, 1, height, width)
    for step in range(n_steps):
        logits = dynamics(window, actions, dynamics.embed(codes[:, None]), known)
        rows = logits.float().movedim(1, -1).flatten(0, 2)
        if temperature > 0:
            rows = rows / temperature
            drawn = torch.multinomial(rows.softmax(-1), 1, generator=generator)[:, 0]
        else:
            drawn = rows.argmax(-1)
        sure = rows.log_softmax(-1).gather(1, drawn[:, None]).view(batch, -1)
        noise = -torch.empty(sure.shape).exponential_(generator=generator).log()
        sure = sure + temperature * noise * (1 - (step + 1) / n_steps)
        settled = known.flatten(1).bool()
        codes = torch.where(settled, codes.flatten(1), drawn.view(batch, -1)).view_as(codes)
        n_open = math.floor(math.cos(math.pi / 2 * (step + 1) / n_steps) * height * width)
        order = sure.masked_fill(settled, float("inf")).argsort(1, descending=True)
        known = torch.zeros_like(settled).scatter_(1, order[:, : height * width - n_open], True)
        known = known.view(batch, 1, height, width).to(logits.dtype)
    return codes
