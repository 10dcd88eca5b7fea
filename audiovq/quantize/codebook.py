"""Codebooks with usage statistics, data-dependent initialisation, dead-code restart and agreement over ranks."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.quantize.functional import count_codes, nearest, squared_distance

# -- agreement over ranks: without a process group these do nothing ---------------------------------------------------


def is_distributed() -> bool:
    """Whether there is more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_reduce_sum(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over the ranks, in place, with one message for all of them."""
    if not is_distributed():
        return
    joint = torch.cat([tensor.reshape(-1).to(tensors[0].dtype) for tensor in tensors])
    dist.all_reduce(joint)
    for tensor, part in zip(tensors, joint.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def gather_sizes(n: int, device: torch.device) -> list[int]:
    """Number of vectors of each rank, in the order of the ranks, given this rank's ``n``."""
    if not is_distributed():
        return [n]
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=device)
    sizes[dist.get_rank()] = n
    dist.all_reduce(sizes)
    return sizes.tolist()


def gather_vectors(x: Tensor, indices: Tensor, sizes: list[int]) -> Tensor:
    """Vectors ``(M, D)`` at ``indices (M,)`` of the joint batch, the same on every rank, from its own ``x (B, D, T)``.

    The joint batch concatenates all ranks along ``B`` in their order.
    """
    length = x.shape[2]
    indices = indices.to(x.device)
    if not is_distributed():
        return x[indices // length, :, indices % length]
    rank = dist.get_rank()
    local = indices - sum(sizes[:rank])
    mine = (local >= 0) & (local < sizes[rank])
    # Every vector has one owner and all other ranks add zero: exact, and far less to send than the batch.
    picked = x.new_zeros(len(indices), x.shape[1])
    picked[mine] = x[local[mine] // length, :, local[mine] % length] if length else picked[mine]
    dist.all_reduce(picked)
    return picked


def broadcast(tensor: Tensor) -> None:
    """Overwrite ``tensor`` by that of the first rank."""
    if is_distributed():
        dist.broadcast(tensor, 0)


# -- k-means and usage ------------------------------------------------------------------------------------------------


@torch.no_grad()
def kmeans(
    vectors: Tensor, n_clusters: int, iterations: int, generator: torch.Generator, normalised: bool = False
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from random members; empty clusters move to random members.

    Args:
        vectors: ``(M, D)``. With fewer vectors than clusters some centres coincide.
        normalised: keep the centres on the unit sphere (spherical k-means); the vectors must be on it, too.

    Returns:
        Centres ``(n_clusters, D)`` and the number of vectors of each, ``(n_clusters,)`` float.
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


class Usage(nn.Module):
    """For each of ``size`` codes, the training steps since it was last used; `metrics` look back ``window`` steps."""

    age: Tensor

    def __init__(self, size: int, window: int = 500) -> None:
        super().__init__()
        self.window = window
        self.register_buffer("age", torch.full((size,), window, dtype=torch.int32))

    @torch.no_grad()
    def observe(self, counts: Tensor) -> None:
        """Update the ages with the counts ``(size,)`` of one training batch over all ranks."""
        self.age.add_(1).masked_fill_(counts > 0, 0)

    @torch.no_grad()
    def metrics(self, counts: Tensor, restarts: Tensor | None = None) -> dict[str, Tensor]:
        """Scalars for a batch with ``counts (size,)``.

        ``perplexity`` (``exp`` of the entropy of the counts) and ``usage`` (share of codes used) of the batch,
        ``usage_window`` (share of codes used in the last ``window`` training steps), ``restarts`` in this step.
        """
        share = counts / counts.sum().clamp(min=1)
        return {
            "perplexity": torch.exp(-torch.xlogy(share, share).sum()),
            "usage": (counts > 0).float().mean(),
            "usage_window": (self.age < self.window).float().mean(),
            "restarts": counts.new_zeros(()) if restarts is None else restarts,
        }


# -- codebooks --------------------------------------------------------------------------------------------------------


class Codebook(nn.Module):
    """``size`` vectors of ``dim`` numbers, with usage statistics. The two subclasses differ in how vectors are learned.

    A training step, ``learn(x)``, updates the vectors, restarts dead codes, chooses codes and adds ``x`` to the
    statistics, in this order: vectors change only at the start of a step, so its codes keep their meaning until the
    next one. Statistics are sums over all ranks, and random choices come from a generator seeded by ``seed`` and the
    step: ranks agree, and a resumed run equals an uninterrupted one.

    Args:
        normalised: vectors are on the unit sphere (so must the latents be).
        decay: of the exponential moving average of the counts (and of the sums in `EMACodebook`).
        restart_below: a code is dead when its average count falls below this share of the mean count over the codebook;
            it restarts from a random vector of the batch, over all ranks, with the mean count. 0: no restarts.
        usage_window: training steps over which ``usage_window`` is reported.
        seed: for random choices; different for each level of a residual quantizer.
        rate: Lagrangian weight of a code's bits, in squared distance per bit. Above 0, the code of ``x`` is not the
            nearest one but the one with the smallest ``|x - e|^2 + rate * bits``, where the bits of a code are
            ``-log2`` of its share of use (entropy-constrained vector quantization; Chou, Lookabaugh and Gray 1989,
            eq. 9). An entropy coder then needs fewer bits. Too large a rate (near what the last code in use saves for
            each of its bits) leaves the codebook unused.
    """

    vectors: Tensor
    counts: Tensor
    bits: Tensor
    steps: Tensor
    initialised: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        normalised: bool = False,
        decay: float = 0.99,
        restart_below: float = 0.1,
        usage_window: int = 500,
        seed: int = 0,
        rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.size, self.dim, self.rate, self.seed = size, dim, rate, seed
        if rate > 0:
            self.register_buffer("bits", torch.full((size,), math.log2(size)))
        self.normalised, self.decay, self.restart_below = normalised, decay, restart_below
        self.register_buffer("counts", torch.ones(size))
        self.usage = Usage(size, usage_window)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    @abstractmethod
    def table(self) -> Tensor:
        """The vectors as they are looked up, ``(size, dim)``."""

    def loss(self, x: Tensor, codes: Tensor) -> Tensor | None:
        """Codebook loss for latents ``x (B, dim, T)`` and their codes; None for vectors not learned by gradient."""
        return None

    def nearest(self, x: Tensor) -> Tensor:
        """Codes ``(B, T)`` of ``x (B, dim, T)``."""
        return nearest(x.detach(), self.table().detach(), costs=self.costs())

    def costs(self) -> Tensor | None:
        """Cost of each code's bits, ``(size,)`` in squared distance; None when bits are free."""
        return self.rate * self.bits if self.rate > 0 else None

    @torch.no_grad()
    def count_bits(self, counts: Tensor) -> None:
        """Set the bits of each code to ``-log2`` of its share of ``counts (size,)``.

        Each code gets ``counts.mean() / (2 * size)`` in addition (half a mean count for all codes together), so that
        the bits of an unused code are finite.
        """
        shares = (counts + 0.5 * counts.mean() / self.size) / (counts.sum() + 0.5 * counts.mean())
        self.bits.copy_(-shares.log2())

    @torch.no_grad()
    def initialise(self, vectors: Tensor, batch_size: float, iterations: int = 10) -> None:
        """Start from the k-means centres of ``vectors (M, dim)``, which must be the same on every rank.

        The average counts add up to ``batch_size``, the vectors in a training batch over all ranks.
        """
        centres, counts = kmeans(vectors, self.size, iterations, self._generator(), self.normalised)
        counts = counts * (batch_size / len(vectors))
        broadcast(centres)
        broadcast(counts)
        self._set(torch.arange(self.size, device=centres.device), centres, counts)
        self.initialised.fill_(True)

    @torch.no_grad()
    def learn(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A training step on ``x (B, dim, T)``. Returns codes ``(B, T)`` and metrics (see `Usage`)."""
        self.steps += 1
        x = x.detach().to(self.counts.dtype)
        self.refresh()
        restarts = self._restart(x)
        if self.rate > 0:
            self.count_bits(self.counts)
        codes, counts = self._assign(x)
        if _any(counts, x):  # else no item used this codebook: quantizer dropout
            self.counts.lerp_(counts, 1 - self.decay)
            self.usage.observe(counts)
        return codes, self.usage.metrics(counts, restarts)

    def refresh(self) -> None:
        """Compute the vectors from the statistics."""

    def _assign(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes ``(B, T)``, and the count of each code over all ranks ``(size,)``."""
        codes = self.nearest(x)
        counts = count_codes(codes, self.size).to(self.counts.dtype)
        all_reduce_sum(counts)
        return codes, counts

    def _restart(self, x: Tensor) -> Tensor:
        """Move dead codes to random vectors of the batch; returns their number."""
        if x.device.type != "cpu" and not is_distributed():
            return self._restart_unseen(x)
        dead = (self.counts < self.restart_below * self.counts.mean()).nonzero()[:, 0]
        if len(dead):
            sizes = gather_sizes(x.shape[0] * x.shape[2], x.device)
            generator = self._generator()
            picked = torch.randperm(sum(sizes), generator=generator)[: len(dead)]
            if len(dead) > len(picked):  # codes that get no vector wait for the next batch
                dead = dead[torch.randperm(len(dead), generator=generator)[: len(picked)].to(dead.device)]
            if len(dead):
                self._set(dead, gather_vectors(x, picked, sizes), self.counts.mean().expand(len(dead)))
        return self.counts.new_tensor(float(len(dead)))

    def _restart_unseen(self, x: Tensor) -> Tensor:
        """As `_restart`, but the host does not wait to know which codes are dead; the device's generator chooses."""
        length, total, mean = x.shape[2], x.shape[0] * x.shape[2], self.counts.mean()
        if total == 0 or self.restart_below <= 0:
            return self.counts.new_zeros(())
        dead = self.counts < self.restart_below * mean
        turn = torch.cumsum(dead, 0) - 1
        dead = dead & (turn < total)  # codes that get no vector wait for the next batch
        picked = torch.rand(total, device=x.device).argsort()[turn.clamp(0, total - 1)]
        vectors = x[picked // length, :, picked % length]
        for values, new in self._statistics(vectors, mean):
            values.copy_(torch.where(dead if values.dim() == 1 else dead[:, None], new, values))
        return dead.sum().to(self.counts.dtype)

    def _statistics(self, vectors: Tensor, count: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What a restart overwrites, with the new values for vectors of ``count`` uses each."""
        return [(self.vectors.data, vectors), (self.counts, count)]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Released weights may come without statistics; further training starts with statistics that fit the vectors.
        vectors = state_dict.get(prefix + "vectors")
        if vectors is not None and prefix + "counts" not in state_dict:
            for name, value in self._fresh_statistics(prefix, vectors).items():
                state_dict.setdefault(name, value)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _fresh_statistics(self, prefix: str, vectors: Tensor) -> dict[str, Tensor]:
        return {
            prefix + "counts": torch.ones(self.size),
            prefix + "usage.age": torch.full((self.size,), self.usage.window, dtype=torch.int32),
            prefix + "steps": torch.zeros((), dtype=torch.int64),
            prefix + "initialised": torch.ones((), dtype=torch.bool),
        }

    def _set(self, codes: Tensor, vectors: Tensor, counts: Tensor) -> None:
        """Overwrite the vectors of ``codes`` together with their statistics."""
        self.vectors.data[codes] = vectors.to(self.vectors.dtype)
        self.counts[codes] = counts.to(self.counts.dtype)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(int(self.steps) * 1009 + self.seed)


class EMACodebook(Codebook):
    """Vectors are moving averages of the latents assigned to them (van den Oord et al. 2017, appendix A.1).

    ``N <- g N + (1 - g) n``, ``m <- g m + (1 - g) sum x``, ``e = m / N`` with Laplace smoothing of ``N`` and decay
    ``g``.
    """

    sums: Tensor
    smoothing = 1e-5

    def __init__(self, size: int, dim: int, **settings: Any) -> None:
        super().__init__(size, dim, **settings)
        vectors = _random_vectors(size, dim, self.normalised)
        self.register_buffer("vectors", vectors)
        self.register_buffer("sums", vectors.clone())

    def table(self) -> Tensor:
        return self.vectors

    @torch.no_grad()
    def refresh(self) -> None:
        total = self.counts.sum()
        smoothed = (self.counts + self.smoothing) / (total + self.size * self.smoothing) * total
        vectors = self.sums / smoothed[:, None]
        self.vectors.copy_(F.normalize(vectors, dim=1) if self.normalised else vectors)

    def _assign(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sums = self.sums.new_zeros(self.dim, self.size)
        codes = nearest(x, self.vectors, sums, self.costs())
        counts = count_codes(codes, self.size).to(self.counts.dtype)
        all_reduce_sum(counts, sums)
        if _any(counts, x):
            self.sums.lerp_(sums.t(), 1 - self.decay)
        return codes, counts

    def _fresh_statistics(self, prefix: str, vectors: Tensor) -> dict[str, Tensor]:
        return {**super()._fresh_statistics(prefix, vectors), prefix + "sums": vectors.float()}

    def _set(self, codes: Tensor, vectors: Tensor, counts: Tensor) -> None:
        super()._set(codes, vectors, counts)
        self.sums[codes] = self.vectors[codes] * self.counts[codes][:, None]

    def _statistics(self, vectors: Tensor, count: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [*super()._statistics(vectors, count), (self.sums, vectors * count)]


class GradientCodebook(Codebook):
    """Vectors are parameters, pulled to the latents by ``||sg[z_e] - e||^2`` (van den Oord et al. 2017, eq. 3).

    Give them an optimizer group of their own: no weight decay, and a learning rate that does not follow the encoder's.
    """

    def __init__(self, size: int, dim: int, **settings: Any) -> None:
        super().__init__(size, dim, **settings)
        self.vectors = nn.Parameter(_random_vectors(size, dim, self.normalised))

    def table(self) -> Tensor:
        return F.normalize(self.vectors, dim=1) if self.normalised else self.vectors

    def loss(self, x: Tensor, codes: Tensor) -> Tensor | None:
        # Gather first, normalise then: a later restart writes to the parameter, which backward must not need any more.
        vectors = F.embedding(codes, self.vectors)
        if self.normalised:
            vectors = F.normalize(vectors, dim=-1)
        return squared_distance(x.detach(), vectors.movedim(-1, 1))


def _any(counts: Tensor, x: Tensor) -> bool:
    """Whether any vector was counted: without other ranks, whether ``x`` has any."""
    return bool(counts.any()) if is_distributed() else x.numel() > 0


def _random_vectors(size: int, dim: int, normalised: bool) -> Tensor:
    return F.normalize(torch.randn(size, dim), dim=1) if normalised else torch.randn(size, dim) / dim**0.5


CODEBOOKS: dict[str, type[Codebook]] = {"ema": EMACodebook, "gradient": GradientCodebook}
"""Codebook classes by name."""
