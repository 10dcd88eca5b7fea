"""Vector quantizers with one codebook, and with one codebook for each part of the vector."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.quantize.codebook import CODEBOOKS, gather_sizes, gather_vectors
from audiovq.quantize.functional import (
    GRADIENTS,
    Quantized,
    QuantizerError,
    block_linear,
    check_codes,
    check_latents,
    check_n_codebooks,
    count_codes,
    flatten_dims,
    lookup,
    squared_distance,
    straight_through,
)


class Projection(nn.Module):
    """``inward``: latents ``(B, C, T)`` to code space ``(B, D, T)``; ``outward``: back. 1x1 maps, tied at the start.

    The inward map multiplies blocks of a fixed shape, so that a vector is projected to the same bits in any batch. The
    outward map is applied to the rows of a codebook only, and latents are looked up in the result.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.inward = nn.Linear(channels, dim)
        self.outward = nn.Linear(dim, channels)
        nn.init.orthogonal_(self.inward.weight)
        with torch.no_grad():
            self.outward.weight.copy_(self.inward.weight.t())
        nn.init.zeros_(self.inward.bias)
        nn.init.zeros_(self.outward.bias)

    def reduce(self, x: Tensor, frozen: bool = False) -> Tensor:
        """``(B, C, T)`` to ``(B, D, T)``; ``frozen``: no gradient to the weights."""
        weight, bias = self._parameters_of(self.inward, frozen)
        return block_linear(x, weight, bias)

    def expand(self, z: Tensor, frozen: bool = False) -> Tensor:
        """``(B, D, T)`` to ``(B, C, T)``, for gradients."""
        weight, bias = self._parameters_of(self.outward, frozen)
        return torch.matmul(weight, z) + bias[:, None]

    def table(self, vectors: Tensor) -> Tensor:
        """A codebook's vectors ``(K, D)`` as latents ``(K, C)``."""
        return F.linear(vectors.to(self.outward.weight.dtype), self.outward.weight, self.outward.bias)

    @torch.no_grad()
    def fit(self, vectors: Tensor, whiten: bool) -> None:
        """Start from the principal components of ``vectors (M, C)``: the subspace in which codes explain most variance.

        Args:
            whiten: give all components the same variance in code space, so that directions on a sphere are used evenly.
        """
        mean = vectors.mean(0)
        covariance = torch.cov(vectors.double().t()).float().reshape(len(mean), len(mean))
        values, directions = torch.linalg.eigh(covariance)
        dim = self.inward.out_features
        basis = directions[:, -dim:]  # (C, D), orthonormal
        scale = values[-dim:].clamp(min=1e-8 * float(values[-1].clamp(min=1e-12))).sqrt() if whiten else torch.ones(dim)
        scale = scale.to(basis.device)
        self.inward.weight.copy_((basis / scale).t())
        self.inward.bias.copy_(-self.inward.weight @ mean)
        self.outward.weight.copy_(basis * scale)
        self.outward.bias.copy_(mean)

    @staticmethod
    def _parameters_of(linear: nn.Linear, frozen: bool) -> tuple[Tensor, Tensor]:
        return (linear.weight.detach(), linear.bias.detach()) if frozen else (linear.weight, linear.bias)


class DataInit(nn.Module):
    """Latents of the last ``batches`` of ``after`` training steps, for data-dependent initialisation.

    Codebooks that start from an untrained encoder collapse as soon as the encoder moves. When latents pass unquantized
    for the first few hundred steps, and codebooks start from what the encoder gives by then, they stay in use. The
    kept latents (of all ranks) are part of the state, so that a run can stop and resume before the start; afterwards
    the buffer is empty.
    """

    kept: Tensor
    seen: Tensor
    steps: Tensor

    def __init__(self, channels: int, after: int, batches: int, max_vectors: int) -> None:
        super().__init__()
        self.after, self.batches, self.max_vectors = after, min(batches, after + 1), max_vectors
        #: Known on the host, so that nobody has to ask a device whether the codebooks have started.
        self.over = False
        self.register_buffer("kept", torch.zeros(0, channels))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))  # vectors in the batches that were kept
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def collect(self, x: Tensor) -> tuple[Tensor, float] | None:
        """Count one training step on ``x (B, C, T)``.

        Returns:
            None until step ``after``; then, once, the vectors kept, ``(M, C)``, the same on every rank, and the mean
            number of vectors in a training batch.
        """
        step = int(self.steps)
        self.steps += 1
        if step > self.after - self.batches:
            sizes = gather_sizes(x.shape[0] * x.shape[2], x.device)
            total, share = sum(sizes), max(1, self.max_vectors // self.batches)
            indices = torch.arange(total)
            if total > share:
                indices = torch.randperm(total, generator=torch.Generator().manual_seed(step))[:share]
            self.seen += total
            self.kept = torch.cat([self.kept, gather_vectors(x.detach(), indices, sizes)])
        if step < self.after or len(self.kept) == 0:
            return None
        vectors, self.kept = self.kept, self.kept[:0].clone()
        return vectors, int(self.seen) / self.batches

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.over = False
        kept = state_dict.get(prefix + "kept")
        if kept is not None and kept.dim() == 2 and kept.shape[1] == self.kept.shape[1]:
            self.kept = self.kept.new_zeros(kept.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


class VectorQuantizer(nn.Module):
    """Replaces each latent by its nearest codebook vector (van den Oord et al. 2017).

    The loss is ``||sg[z] - e||^2 + beta ||z - sg[e]||^2`` (eq. 3): squared norms over the channels of code space,
    averaged over the latents. With ``codebook="ema"`` the first term is left out, because the vectors are moving
    averages instead (appendix A.1). Distances, averages and losses are float32 also under autocast.

    Codes of a latent vector do not depend on the rest of the batch (see `audiovq.quantize.functional.nearest`).

    Args:
        channels: ``C`` of the latents.
        codebook_size: number of codes.
        codebook_dim: dimensions of code space; when it is not ``channels``, a 1x1 map leads in and another one out
            (factorised codes; Yu et al. 2022, section 3.2). None: no maps.
        normalised: compare directions: latents and vectors are scaled to the unit sphere (same section).
        codebook: "ema" or "gradient": how the vectors are learned.
        gradient: "straight_through" or "rotation": estimator of the gradient through the choice of a code.
        beta: weight of the commitment term; the paper reports no difference between 0.1 and 2.0.
        decay: of the moving averages.
        restart_below: dead codes are those used less than this share of the mean; see `Codebook`.
        init_after: training steps in which latents pass unquantized (codes -1, loss 0) before the codebook starts from
            k-means over the last ``init_batches`` of them. 0: start from the first batch. None: keep the random start.
        init_batches: see ``init_after``.
        rate: Lagrangian weight of a code's bits, in squared distance per bit; see `Codebook`.
        seed: for random choices inside; different for each level of a residual quantizer.

    Raises:
        QuantizerError: settings, latents or codes that do not fit.
    """

    n_codebooks = 1

    def __init__(
        self,
        channels: int,
        codebook_size: int = 1024,
        codebook_dim: int | None = None,
        normalised: bool = False,
        codebook: str = "ema",
        gradient: str = "straight_through",
        beta: float = 0.25,
        decay: float = 0.99,
        restart_below: float = 0.1,
        init_after: int | None = 0,
        init_batches: int = 8,
        rate: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if rate < 0:
            raise QuantizerError(f"rate is the cost of a bit: at least 0, not {rate:g}")
        if codebook not in CODEBOOKS or gradient not in GRADIENTS:
            raise QuantizerError(f"codebook is one of {sorted(CODEBOOKS)}, gradient one of {sorted(GRADIENTS)}")
        self.channels, self.codebook_size = channels, codebook_size
        self.normalised, self.beta = normalised, beta
        self.estimate = GRADIENTS[gradient]
        projected = codebook_dim is not None and codebook_dim != channels
        self.projection = Projection(channels, codebook_dim) if projected and codebook_dim else None
        self.codebook = CODEBOOKS[codebook](
            codebook_size,
            codebook_dim or channels,
            normalised=normalised,
            decay=decay,
            restart_below=restart_below,
            rate=rate,
            seed=seed,
        )
        self.start: DataInit | None = None
        if init_after is None:
            self.codebook.initialised.fill_(True)
        else:
            self.start = DataInit(channels, init_after, init_batches, 32 * codebook_size)

    def forward(self, latents: Tensor, n_codebooks: int | None = None) -> Quantized:
        """Quantize ``latents (B, C, *dims)``; codes ``(B, 1, *dims)``. In training mode the codebook learns."""
        check_latents(latents, self.channels)
        check_n_codebooks(n_codebooks, self.n_codebooks)
        with torch.autocast(latents.device.type, enabled=False):
            x = flatten_dims(latents)
            if self.training and not wait_for_start(self, x):
                return unquantized(latents, x, self.n_codebooks, self.codebook.usage.metrics(self.codebook.counts * 0))
            z = self.reduce(x)
            codes, metrics = self.assign(z)
            chosen = self.look_up(codes)
            value = self.expand(codes, chosen)
            loss = self.loss(z, codes, chosen)
            if torch.is_grad_enabled():
                value = straight_through(self.surrogate(z, chosen), value)
        shape = latents.shape
        return Quantized(value.view(shape), codes.view(shape[0], 1, *shape[2:]), loss, metrics)

    @torch.no_grad()
    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Codes ``(B, 1, *dims)`` of ``latents (B, C, *dims)``."""
        check_latents(latents, self.channels)
        check_n_codebooks(n_codebooks, self.n_codebooks)
        with torch.autocast(latents.device.type, enabled=False):
            codes = self.codebook.nearest(self.reduce(flatten_dims(latents)))
        return codes.view(latents.shape[0], 1, *latents.shape[2:])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Latents ``(B, C, *dims)`` of ``codes (B, 1, *dims)``."""
        check_codes(codes, self.codebook_size, self.n_codebooks)
        with torch.autocast(codes.device.type, enabled=False):
            value = lookup(codes[:, :1].flatten(1), self.table())
        return value.view(codes.shape[0], self.channels, *codes.shape[2:])

    # The steps of forward(), shared with the residual quantizer: x (B, C, T) latents, z (B, D, T) points of code space.

    def reduce(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Latents to code space; ``frozen``: no gradient to the weights of the map."""
        z = x if self.projection is None else self.projection.reduce(x, frozen)
        return F.normalize(z, dim=1) if self.normalised else z

    def assign(self, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Codes ``(B, T)`` and metrics; in training mode the codebook learns from ``z``."""
        if self.training:
            return self.codebook.learn(z)
        codes = self.codebook.nearest(z)
        counts = count_codes(codes, self.codebook_size).float()
        return codes, self.codebook.usage.metrics(counts)

    def look_up(self, codes: Tensor) -> Tensor:
        """Codes ``(B, T)`` to their points in code space, without gradient."""
        return lookup(codes, self.codebook.table().detach())

    def expand(self, codes: Tensor, chosen: Tensor) -> Tensor:
        """Codes ``(B, T)`` and their points ``chosen`` to latents, without gradient: the same as ``decode`` gives."""
        return chosen if self.projection is None else lookup(codes, self.table().detach())

    def table(self) -> Tensor:
        """All codes as latents, ``(codebook_size, C)``."""
        vectors = self.codebook.table()
        return vectors if self.projection is None else self.projection.table(vectors)

    def surrogate(self, z: Tensor, chosen: Tensor, frozen: bool = False) -> Tensor:
        """Quantized latents (up to rounding) with ``forward``'s gradient to ``z`` and to the outward map."""
        through = self.estimate(z, chosen)
        return through if self.projection is None else self.projection.expand(through, frozen)

    def loss(self, z: Tensor, codes: Tensor, chosen: Tensor) -> Tensor:
        """Commitment loss and, for a codebook learned by gradient, the codebook loss."""
        loss = self.beta * squared_distance(z, chosen)
        codebook_loss = self.codebook.loss(z, codes)
        return loss if codebook_loss is None else loss + codebook_loss

    def started(self) -> bool:
        """Whether the codebook has its first vectors."""
        return self.start is None or self.start.over or bool(self.codebook.initialised)

    @torch.no_grad()
    def initialise(self, vectors: Tensor, batch_size: float) -> None:
        """Start from latents ``vectors (M, C)``, the same on every rank; ``batch_size`` as for the codebook."""
        if self.projection is not None:
            self.projection.fit(vectors, whiten=self.normalised)
        z = self.reduce(vectors.t()[None])
        self.codebook.initialise(z[0].t().contiguous(), batch_size)
        if self.projection is not None and self.normalised:
            # Directions have no length: scale the outward map to the length that fits best.
            rows = vectors - self.projection.outward.bias
            guess = lookup(self.codebook.nearest(z), self.table())[0].t() - self.projection.outward.bias
            self.projection.outward.weight *= (rows * guess).sum() / guess.square().sum().clamp(min=1e-12)


def wait_for_start(quantizer: nn.Module, x: Tensor) -> bool:
    """Count a training step on ``x (B, C, T)``; start ``quantizer`` when it is due. Returns whether it has started."""
    start = quantizer.start
    if not isinstance(start, DataInit) or start.over:
        return True
    if not quantizer.started():  # type: ignore[operator]
        collected = start.collect(x)
        if collected is None:
            return False
        quantizer.initialise(*collected)  # type: ignore[operator]
    start.over = True
    return True


def waits(quantizer: nn.Module) -> bool:
    """Whether ``quantizer`` passed its last training batch unquantized."""
    return quantizer.training and isinstance(quantizer.start, DataInit) and not quantizer.start.over


def unquantized(latents: Tensor, x: Tensor, n_codebooks: int, metrics: dict[str, Tensor]) -> Quantized:
    """Result of a training step before the start: the latents unchanged, codes -1, loss 0."""
    codes = torch.full((latents.shape[0], n_codebooks, *latents.shape[2:]), -1, device=latents.device)
    return Quantized(x.view(latents.shape), codes, x.new_zeros(()), metrics)


class ProductQuantizer(nn.Module):
    """``n_codebooks`` discrete latents at each position, all from one codebook, such as the field of 8x8x10 latents in
    van den Oord et al. 2017, section 4.1.

    The channels are split into ``n_codebooks`` groups, each a separate latent; code k of a position is that of group k.

    Args:
        channels: ``C`` of the latents, a multiple of ``n_codebooks``.
        n_codebooks: number of groups.
        settings: further arguments of `VectorQuantizer`.

    Raises:
        QuantizerError: settings, latents or codes that do not fit.
    """

    def __init__(self, channels: int, n_codebooks: int, **settings: Any) -> None:
        super().__init__()
        if n_codebooks < 1 or channels % n_codebooks:
            raise QuantizerError(f"{channels} channels cannot be split into {n_codebooks} groups")
        self.channels, self.n_codebooks = channels, n_codebooks
        self.vector = VectorQuantizer(channels // n_codebooks, **settings)
        self.codebook_size = self.vector.codebook_size

    def forward(self, latents: Tensor, n_codebooks: int | None = None) -> Quantized:
        """Quantize ``latents (B, C, *dims)``; see `VectorQuantizer.forward`."""
        quantized = self.vector(self._groups(latents, n_codebooks))
        return Quantized(self._joined(quantized.latents), quantized.codes[:, 0], quantized.loss, quantized.metrics)

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Codes ``(B, K, *dims)`` of ``latents (B, C, *dims)``."""
        return self.vector.encode(self._groups(latents, n_codebooks))[:, 0]

    def decode(self, codes: Tensor) -> Tensor:
        """Latents ``(B, C, *dims)`` of ``codes (B, K, *dims)``."""
        if codes.shape[1] != self.n_codebooks:
            raise QuantizerError(f"a product quantizer needs all of its {self.n_codebooks} codes at each position")
        return self._joined(self.vector.decode(codes[:, None]))

    def _groups(self, latents: Tensor, n_codebooks: int | None) -> Tensor:
        """(B, C, *dims) -> (B, C / K, K, *dims)."""
        if n_codebooks not in (None, self.n_codebooks):
            raise QuantizerError(f"a product quantizer uses all of its {self.n_codebooks} codebooks")
        if latents.dim() < 2 or latents.shape[1] != self.channels:
            raise QuantizerError(f"latents must be (B, {self.channels}, *dims), got {tuple(latents.shape)}")
        return latents.unflatten(1, (self.n_codebooks, -1)).transpose(1, 2)

    def _joined(self, groups: Tensor) -> Tensor:
        """(B, C / K, K, *dims) -> (B, C, *dims)."""
        return groups.transpose(1, 2).flatten(1, 2)
