"""Codebooks: vectors that know how often they are used, start from data and come back from the dead."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.quantize.distributed import all_reduce_sum, broadcast, joint_size, pick
from audiovq.quantize.gradient import squared_distance
from audiovq.quantize.kmeans import kmeans
from audiovq.quantize.nearest import nearest
from audiovq.quantize.usage import Usage


class Codebook(nn.Module):
    """``size`` vectors of ``dim`` numbers, with the statistics of their use. The two subclasses learn them differently.

    A training step, ``learn(x)``, brings the vectors up to date, restarts dead codes, chooses codes and takes in the
    statistics of ``x``, in this order: vectors change only at its start, so what a step looked up stays what its codes
    mean until the next one. Statistics are sums over all ranks, and random choices come from a generator seeded by
    ``seed`` and the step: ranks agree, and a resumed run goes on as if it had not stopped.

    Args:
        normalised: vectors live on the unit sphere (so must the latents).
        decay: of the exponential moving average of the counts (and of the sums in :class:`EMACodebook`).
        restart_below: a code is dead when its average count falls below this share of the mean count over the
        codebook; it
            restarts from a random vector of the batch, over all ranks, with the mean count. 0 switches restarts off.
        usage_window: training steps over which ``usage_window`` is reported.
        seed: for random choices; different for each level of a residual quantizer.
        rate: what a bit costs, in squared distance. Above 0, the code of ``x`` is not the nearest one but that with the
            smallest ``|x - e|^2 + rate * bits``, where the bits of a code are ``-log2`` of its share of use
            (entropy-constrained vector quantization; Chou, Lookabaugh and Gray 1989, eq. 9). An entropy coder then
            needs fewer bits; a rate near what the last code used saves for each of its bits lets the book go unused.
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
        self.size, self.dim = size, dim
        self.rate = rate
        if rate > 0:
            self.register_buffer("bits", torch.full((size,), math.log2(size)))
        self.normalised = normalised
        self.decay = decay
        self.restart_below = restart_below
        self.seed = seed
        self.register_buffer("counts", torch.ones(size))
        self.usage = Usage(size, usage_window)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def table(self) -> Tensor:
        """The vectors as they are looked up, ``(size, dim)``."""
        raise NotImplementedError

    def loss(self, x: Tensor, codes: Tensor) -> Tensor | None:
        """What pulls the vectors to the latents ``x (B, dim, T)`` by gradient, or None when nothing does."""
        return None

    def nearest(self, x: Tensor) -> Tensor:
        """Codes ``(B, T)`` of ``x (B, dim, T)``."""
        return nearest(x.detach(), self.table().detach(), costs=self.costs())

    def costs(self) -> Tensor | None:
        """What each code's bits cost, ``(size,)`` in squared distance; None when bits are free."""
        return self.rate * self.bits if self.rate > 0 else None

    @torch.no_grad()
    def count_bits(self, counts: Tensor) -> None:
        """Take the bits of each code from how often it is used, ``(size,)``; half a use is added to each."""
        shares = (counts + 0.5 * counts.mean() / self.size) / (counts.sum() + 0.5 * counts.mean())
        self.bits.copy_(-shares.log2())

    @torch.no_grad()
    def initialise(self, vectors: Tensor, batch_size: float, iterations: int = 10) -> None:
        """Start from the k-means centres of ``vectors (M, dim)``, which must be the same on every rank.

        Args:
            batch_size: vectors in a training batch over all ranks: what the average counts add up to.
        """
        centres, counts = kmeans(vectors, self.size, iterations, self._generator(), self.normalised)
        counts = counts * (batch_size / len(vectors))
        broadcast(centres)
        broadcast(counts)
        self._set(torch.arange(self.size, device=centres.device), centres, counts)
        self.initialised.fill_(True)

    @torch.no_grad()
    def learn(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A training step on ``x (B, dim, T)``. Returns codes ``(B, T)`` and metrics (see :class:`Usage`)."""
        self.steps += 1
        x = x.detach().to(self.counts.dtype)
        self.refresh()
        restarts = self._restart(x)
        if self.rate > 0:
            self.count_bits(self.counts)
        codes, counts = self._assign(x)
        if bool(counts.any()):  # nobody used it: quantizer dropout
            self.counts.lerp_(counts, 1 - self.decay)
            self.usage.observe(counts)
        return codes, self.usage.metrics(counts, restarts)

    def refresh(self) -> None:
        """Bring the vectors up to what the statistics say."""

    def extra_repr(self) -> str:
        return f"size={self.size}, dim={self.dim}, normalised={self.normalised}"

    def _assign(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes ``(B, T)``, and how often each was chosen over all ranks ``(size,)``."""
        codes = self.nearest(x)
        counts = torch.bincount(codes.flatten(), minlength=self.size).to(self.counts.dtype)
        all_reduce_sum(counts)
        return codes, counts

    def _restart(self, x: Tensor) -> Tensor:
        """Move dead codes to random vectors of the batch; returns how many."""
        dead = (self.counts < self.restart_below * self.counts.mean()).nonzero()[:, 0]
        if len(dead):
            sizes = joint_size(x.shape[0] * x.shape[2], x.device)
            generator = self._generator()
            picked = torch.randperm(sum(sizes), generator=generator)[: len(dead)]
            if len(dead) > len(picked):  # codes left without a vector of their own wait for the next batch
                dead = dead[torch.randperm(len(dead), generator=generator)[: len(picked)].to(dead.device)]
            if len(dead):
                self._set(dead, pick(x, picked, sizes), self.counts.mean().expand(len(dead)))
        return self.counts.new_tensor(float(len(dead)))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        # Released weights may come without statistics; training on from them starts with what fits the vectors.
        vectors = state_dict.get(prefix + "vectors")
        if vectors is not None and prefix + "counts" not in state_dict:
            for name, value in self._fresh_statistics(prefix, vectors).items():
                state_dict.setdefault(name, value)
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[arg-type]

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

    def __init__(self, size: int, dim: int, **settings) -> None:
        super().__init__(size, dim, **settings)
        vectors = _start(size, dim, self.normalised)
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
        counts = torch.bincount(codes.flatten(), minlength=self.size).to(self.counts.dtype)
        all_reduce_sum(counts, sums)
        if bool(counts.any()):
            self.sums.lerp_(sums.t(), 1 - self.decay)
        return codes, counts

    def _fresh_statistics(self, prefix: str, vectors: Tensor) -> dict[str, Tensor]:
        return {**super()._fresh_statistics(prefix, vectors), prefix + "sums": vectors.float()}

    def _set(self, codes: Tensor, vectors: Tensor, counts: Tensor) -> None:
        super()._set(codes, vectors, counts)
        self.sums[codes] = self.vectors[codes] * self.counts[codes][:, None]


class GradientCodebook(Codebook):
    """Vectors are parameters, pulled to the latents by ``||sg[z_e] - e||^2`` (van den Oord et al. 2017, eq. 3).

    Give them an optimizer group of their own: no weight decay, and a learning rate that does not follow the encoder's.
    """

    def __init__(self, size: int, dim: int, **settings) -> None:
        super().__init__(size, dim, **settings)
        self.vectors = nn.Parameter(_start(size, dim, self.normalised))

    def table(self) -> Tensor:
        return F.normalize(self.vectors, dim=1) if self.normalised else self.vectors

    def loss(self, x: Tensor, codes: Tensor) -> Tensor | None:
        # Gather first, normalise then: a later restart writes to the parameter, which backward must not need any more.
        vectors = F.embedding(codes, self.vectors)
        if self.normalised:
            vectors = F.normalize(vectors, dim=-1)
        return squared_distance(x.detach(), vectors.movedim(-1, 1))


def _start(size: int, dim: int, normalised: bool) -> Tensor:
    return F.normalize(torch.randn(size, dim), dim=1) if normalised else torch.randn(size, dim) / dim**0.5


CODEBOOKS: dict[str, type[Codebook]] = {"ema": EMACodebook, "gradient": GradientCodebook}
