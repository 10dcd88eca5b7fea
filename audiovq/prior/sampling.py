"""Sampling from a prior step by step with torch: any backbone, any device, float32."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from audiovq.errors import AudioVQError
from audiovq.prior.networks import PriorNetworks


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of sampling codes from logits.

    Attributes:
        temperature: logits are divided by it; 0 takes the likeliest code.
        top_k: only the ``top_k`` likeliest codes (and those as likely as the last of them); 0 for all.
        top_p: only the likeliest codes that together reach this probability (Holtzman et al. 2020); 1 for all.

    Raises:
        AudioVQError: for settings outside their ranges.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise AudioVQError(f"temperature is a number of at least 0, not {self.temperature:g}")
        if self.top_k < 0:
            raise AudioVQError(f"top-k is at least 0, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise AudioVQError(f"top-p is above 0 and at most 1, not {self.top_p:g}")

    def override(self, temperature: float | None, top_k: int, top_p: float | None) -> SamplingConfig:
        """These settings with some replaced; None keeps the temperature or top-p.

        Raises:
            AudioVQError: for settings outside their ranges.
        """
        return SamplingConfig(
            self.temperature if temperature is None else temperature, top_k, self.top_p if top_p is None else top_p
        )


class Stepper:
    """A batch of sequences that grow frame by frame, with the backbone's cache.

    Args:
        prior: the networks.
        offset: (B, C), the conditions' vector that is added to every input.
        config: sampling settings.
        n_streams: number of streams to sample.
    """

    def __init__(self, prior: PriorNetworks, offset: Tensor, config: SamplingConfig, n_streams: int) -> None:
        self.prior, self.offset, self.config, self.n_streams = prior, offset, config, n_streams
        self.state = prior.backbone.start(len(offset), offset)

    def hidden(self, codes: Tensor) -> Tensor:
        """The frame before (B, S) -> the backbone's output (B, C) for the next frame."""
        embedded = self.prior.embedding(codes[:, None])[:, 0]
        return self.prior.backbone.step(self.prior.entry(embedded.flatten(1)) + self.offset, self.state)

    @torch.no_grad()
    def advance(self, codes: np.ndarray, uniforms: np.ndarray | None) -> np.ndarray | None:
        """The frame before (B, S) and uniform numbers in [0, 1), (B, S') -> the next frame (B, S').

        Without numbers nothing is sampled; the frame only enters the cache.
        """
        from audiovq.prior.kernels import sample_code  # compiled, which needs a cache folder

        prior, config = self.prior, self.config
        hidden = self.hidden(torch.from_numpy(codes).to(self.offset.device))
        if uniforms is None:
            return None
        rows = prior.depth.start(hidden)
        known = torch.zeros_like(rows[:, 0])
        sampled = np.empty(uniforms.shape, np.int64)
        for k in range(self.n_streams):
            logits = prior.depth.logits(prior.depth.refine(rows[:, k] + known), k).float().cpu().numpy()
            for i, row in enumerate(logits):
                sampled[i, k] = sample_code(row, uniforms[i, k], config.temperature, config.top_k, config.top_p)
            if k + 1 < self.n_streams:
                chosen = torch.from_numpy(sampled[:, k]).to(self.offset.device)
                known = known + prior.embedding.vectors[k, chosen] @ prior.depth.below[k].T
        return sampled
