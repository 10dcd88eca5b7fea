"""Latents put aside until codebooks can start from them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiovq.quantize.distributed import joint_size, pick


class DataStart(nn.Module):
    """Waits for ``after`` training steps and keeps the latents of the last ``batches`` of them, over all ranks.

    Codebooks started from an untrained encoder collapse as soon as the encoder moves; left out for the first few
    hundred steps and then started from what the encoder gives by then, they stay in use. What was kept is part of
    the state, so that a run can stop and resume before the start; afterwards it is empty.
    """

    kept: Tensor
    seen: Tensor
    steps: Tensor

    def __init__(self, channels: int, after: int, batches: int, max_vectors: int) -> None:
        super().__init__()
        self.after, self.batches, self.max_vectors = after, min(batches, after + 1), max_vectors
        self.register_buffer("kept", torch.zeros(0, channels))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))  # vectors in the batches that were kept
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def collect(self, x: Tensor) -> tuple[Tensor, float] | None:
        """Count one training step on ``x (B, C, T)``.

        Returns:
            None while it is too early; then once the vectors kept, ``(M, C)``, the same on every rank, and how many
            vectors a training batch has on average.
        """
        step = int(self.steps)
        self.steps += 1
        if step > self.after - self.batches:
            sizes = joint_size(x.shape[0] * x.shape[2], x.device)
            total, share = sum(sizes), max(1, self.max_vectors // self.batches)
            indices = torch.arange(total)
            if total > share:
                indices = torch.randperm(total, generator=torch.Generator().manual_seed(step))[:share]
            self.seen += total
            self.kept = torch.cat([self.kept, pick(x.detach(), indices, sizes)])
        if step < self.after or len(self.kept) == 0:
            return None
        vectors, self.kept = self.kept, self.kept[:0].clone()
        return vectors, int(self.seen) / self.batches

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        kept = state_dict.get(prefix + "kept")
        if kept is not None and kept.dim() == 2 and kept.shape[1] == self.kept.shape[1]:
            self.kept = self.kept.new_zeros(kept.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[arg-type]
