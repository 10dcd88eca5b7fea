"""k-means, for codebooks that start from data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.quantize.nearest import nearest


@torch.no_grad()
def kmeans(
    vectors: Tensor, n_clusters: int, iterations: int, generator: torch.Generator, normalised: bool = False
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from random members; empty clusters move to random members.

    Args:
        vectors: ``(M, D)``. With fewer vectors than clusters some centres coincide.
        normalised: keep the centres on the unit sphere (spherical k-means); the vectors must be on it, too.

    Returns:
        Centres ``(n_clusters, D)`` and how many vectors belong to each, ``(n_clusters,)`` float.
    """

    def members(n: int) -> Tensor:
        if n <= len(vectors):
            return vectors[torch.randperm(len(vectors), generator=generator)[:n].to(vectors.device)]
        return vectors[torch.randint(len(vectors), (n,), generator=generator).to(vectors.device)]

    centres = members(n_clusters).clone()
    columns = vectors.t()[None]
    counts = vectors.new_zeros(n_clusters)
    for iteration in range(iterations + 1):
        codes = nearest(columns, centres)[0]
        counts = torch.bincount(codes, minlength=n_clusters).to(vectors.dtype)
        if iteration == iterations:
            break
        sums = torch.zeros_like(centres).index_add_(0, codes, vectors)
        centres = sums / counts.clamp(min=1)[:, None]
        empty = counts == 0
        centres[empty] = members(int(empty.sum()))
        if normalised:
            centres = F.normalize(centres, dim=1)
    return centres, counts
