"""What is said as a loss: quantized latents have to tell what a recogniser's encoder heard."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.data.teacher import DIM


class TeacherLoss(nn.Module):
    """Squared error of a linear map from quantized latents to a teacher's features (Zhang et al. 2024, section 3.2).

    Args:
        latent_dim: channels of the latents.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.head = nn.Conv1d(latent_dim, DIM, 1)

    def forward(self, latents: Tensor, taught: Tensor) -> Tensor:
        """Latents (B, C, F) and features (B, N, DIM) of the same stretch, zeros where nothing was heard -> a scalar.

        Features have a variance of one, so 1 is what a constant would reach.
        """
        wanted = F.adaptive_avg_pool1d(taught.transpose(1, 2), latents.shape[-1])
        heard = (wanted != 0).any(dim=1, keepdim=True)
        error = (self.head(latents).float() - wanted).square().mean(dim=1, keepdim=True)
        return (error * heard).sum() / heard.sum().clamp_min(1)
