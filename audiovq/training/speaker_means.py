"""A loss that keeps a codebook from telling who speaks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpeakerMeans(nn.Module):
    """Keeps a codebook from telling who speaks by what stays the same in all that a speaker says.

    The mean of each speaker's vectors is followed by a moving average; the loss is the variance of these means, as a
    share of the variance of all vectors. Its gradient moves every vector of a speaker by the same.

    Args:
        channels: of the vectors.
        n_speakers: of the corpus.
        decay: of the averages, by batches that have the speaker.
    """

    means: Tensor
    seen: Tensor
    moments: Tensor

    def __init__(self, channels: int, n_speakers: int, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("means", torch.zeros(n_speakers, channels))
        self.register_buffer("seen", torch.zeros(n_speakers))
        self.register_buffer("moments", torch.zeros(2, channels))  # mean and variance of all vectors

    def forward(self, latents: Tensor, values: Tensor, active: Tensor, speaker: Tensor) -> Tensor:
        """Latents that carry the gradient and their vectors, both (B, C, F), where they are ``active`` (B, F), of
        speakers (B,)."""
        weight = active.float()[:, None]
        n_frames = weight.sum(2).clamp_min(1)
        own = (values * weight).sum(2) / n_frames
        with torch.no_grad():
            self._follow(own, values, active, speaker)
            known = self.seen > 0
            if not known.any():
                return latents.new_zeros(())
            centre = self.means[known].mean(0)
            direction = self.means[speaker] - centre
            total = self.moments[1].sum().clamp_min(1e-6)
            share = (self.means[known] - centre).square().sum(1).mean() / total
        pull = ((latents * weight).sum(2) / n_frames * direction).sum(1).mean() / total
        return 2 * (pull - pull.detach()) + share

    def _follow(self, own: Tensor, values: Tensor, active: Tensor, speaker: Tensor) -> None:
        rows = values.transpose(1, 2)[active]
        if len(rows) < 2:
            return
        found = torch.stack([rows.mean(0), rows.var(0)])
        self.moments.copy_(found if not self.seen.any() else self.moments.lerp(found, 0.02))
        for mean, number, voiced in zip(own, speaker.tolist(), active.any(1).tolist(), strict=True):
            if voiced:
                rate = max(1 - self.decay, 1 / (1 + float(self.seen[number])))
                self.means[number].lerp_(mean, rate)
                self.seen[number] += 1
