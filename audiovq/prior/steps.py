"""Sampling step by step with torch: any backbone, any device, float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from audiovq.prior.drawing import draw

if TYPE_CHECKING:
    from audiovq.prior.model import CodePrior, Drawing


class Stepper:
    """A batch of sequences that grow frame by frame, with the backbone's cache.

    Args:
        prior: the model.
        offset: (B, C), what the conditions add to every input.
        drawing: how codes are drawn.
        n_codebooks: books to draw.
    """

    def __init__(self, prior: CodePrior, offset: Tensor, drawing: Drawing, n_codebooks: int) -> None:
        self.prior, self.offset, self.drawing, self.n_codebooks = prior, offset, drawing, n_codebooks
        self.state = prior.backbone.start(len(offset), offset)  # type: ignore[operator]

    def hidden(self, codes: Tensor) -> Tensor:
        """The frame before (B, K) -> the backbone's output (B, C) for the frame to come."""
        embedded = self.prior.embedding(codes[:, None])[:, 0]
        return self.prior.backbone.step(self.prior.entry(embedded.flatten(1)) + self.offset, self.state)  # type: ignore[operator]

    @torch.inference_mode()
    def advance(self, codes: np.ndarray, uniforms: np.ndarray | None) -> np.ndarray | None:
        """The frame before (B, K), numbers to draw with (B, K') -> the next frame (B, K').

        Without numbers nothing is drawn; the frame is only remembered.
        """
        prior, how = self.prior, self.drawing
        hidden = self.hidden(torch.from_numpy(codes).to(self.offset.device))
        if uniforms is None:
            return None
        rows = prior.depth.start(hidden)
        known = torch.zeros_like(rows[:, 0])
        drawn = np.empty(uniforms.shape, np.int64)
        for book in range(self.n_codebooks):
            logits = prior.depth.logits(prior.depth.refine(rows[:, book] + known), book).float().cpu().numpy()
            for i, row in enumerate(logits):
                drawn[i, book] = draw(row, uniforms[i, book], how.temperature, how.top_k, how.top_p)
            if book + 1 < self.n_codebooks:
                chosen = torch.from_numpy(drawn[:, book]).to(self.offset.device)
                known = known + prior.embedding.vectors[book, chosen] @ prior.depth.below[book].T
        return drawn
