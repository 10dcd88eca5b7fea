"""Vector quantization: one codebook between an encoder and a decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.quantize.codebook import CODEBOOKS
from audiovq.quantize.gradient import GRADIENTS, squared_distance, straight_through
from audiovq.quantize.nearest import lookup
from audiovq.quantize.projection import Projection
from audiovq.quantize.result import Quantized, QuantizerError
from audiovq.quantize.start import DataStart


class VectorQuantizer(nn.Module):
    """Replaces each latent by its nearest codebook vector (van den Oord et al. 2017).

    The loss is ``||sg[z] - e||^2 + beta ||z - sg[e]||^2`` (eq. 3): squared norms over the channels of code space,
    averaged over the latents. With ``codebook="ema"`` the first term is left out, because the vectors are moving
    averages instead (appendix A.1). Distances, averages and losses are float32 also under autocast.

    Codes of a latent vector do not depend on what else is in the batch (see :func:`audiovq.quantize.nearest.nearest`).

    Args:
        channels: ``C`` of the latents.
        codebook_size: number of codes.
        codebook_dim: dimensions of code space; a 1x1 map leads in and another one out when it is not ``channels``
        (Yu et
            al. 2022, section 3.2, factorised codes). None: no maps.
        normalised: compare directions: latents and vectors are put on the unit sphere (same section).
        codebook: "ema" or "gradient": how the vectors are learned.
        gradient: "straight_through" or "rotation": how the gradient passes the choice of a code.
        beta: weight of the commitment term; the paper found 0.1 to 2.0 to work alike.
        decay: of the moving averages.
        restart_below: dead codes are those used less than this share of the mean; see :class:`Codebook`.
        init_after: training steps in which latents pass unquantized (codes -1, loss 0) before the codebook starts from
            k-means over the last ``init_batches`` of them. 0: start from the first batch. None: keep the random start.
        init_batches: see there.
        rate: what a bit of the code costs, in squared distance; see :class:`Codebook`.
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
            raise QuantizerError(f"rate is what a bit costs: at least 0, not {rate:g}")
        if codebook not in CODEBOOKS or gradient not in GRADIENTS:
            raise QuantizerError(f"codebook is one of {sorted(CODEBOOKS)}, gradient one of {sorted(GRADIENTS)}")
        self.channels, self.codebook_size = channels, codebook_size
        self.normalised, self.beta = normalised, beta
        self.choose = GRADIENTS[gradient]
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
        self.start: DataStart | None = None
        if init_after is None:
            self.codebook.initialised.fill_(True)
        else:
            self.start = DataStart(channels, init_after, init_batches, 32 * codebook_size)

    def forward(self, latents: Tensor, n_codebooks: int | None = None) -> Quantized:
        """Quantize ``latents (B, C, *dims)``. In training mode the codebook learns from them."""
        check_latents(latents, self.channels)
        check_n_codebooks(n_codebooks, self.n_codebooks)
        with torch.autocast(latents.device.type, enabled=False):
            x = flat(latents)
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
            codes = self.codebook.nearest(self.reduce(flat(latents)))
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
        """Codes ``(B, T)`` and metrics; in training the codebook takes ``z`` in."""
        if self.training:
            return self.codebook.learn(z)
        codes = self.codebook.nearest(z)
        counts = torch.bincount(codes.flatten(), minlength=self.codebook_size).float()
        return codes, self.codebook.usage.metrics(counts)

    def look_up(self, codes: Tensor) -> Tensor:
        """Codes ``(B, T)`` to their points in code space, without gradient."""
        return lookup(codes, self.codebook.table().detach())

    def expand(self, codes: Tensor, chosen: Tensor) -> Tensor:
        """Codes ``(B, T)`` and their points ``chosen`` to latents, without gradient: what ``decode`` gives."""
        return chosen if self.projection is None else lookup(codes, self.table().detach())

    def table(self) -> Tensor:
        """All codes as latents, ``(codebook_size, C)``."""
        vectors = self.codebook.table()
        return vectors if self.projection is None else self.projection.table(vectors)

    def surrogate(self, z: Tensor, chosen: Tensor, frozen: bool = False) -> Tensor:
        """Quantized latents (up to rounding) with the gradient that ``forward`` gives to ``z`` and to the way out."""
        through = self.choose(z, chosen)
        return through if self.projection is None else self.projection.expand(through, frozen)

    def loss(self, z: Tensor, codes: Tensor, chosen: Tensor) -> Tensor:
        """Commitment and, for a codebook learned by gradient, the codebook term."""
        loss = self.beta * squared_distance(z, chosen)
        codebook_loss = self.codebook.loss(z, codes)
        return loss if codebook_loss is None else loss + codebook_loss

    def started(self) -> bool:
        """Whether the codebook has its first vectors."""
        return bool(self.codebook.initialised)

    @torch.no_grad()
    def initialise(self, vectors: Tensor, batch_size: float) -> None:
        """Start from latents ``vectors (M, C)``, the same on every rank; ``batch_size`` as for the codebook."""
        if self.projection is not None:
            self.projection.fit(vectors, whiten=self.normalised)
        z = self.reduce(vectors.t()[None])
        self.codebook.initialise(z[0].t().contiguous(), batch_size)
        if self.projection is not None and self.normalised:
            # Directions have no length: give the way out the length that fits best.
            rows = vectors - self.projection.outward.bias
            guess = lookup(self.codebook.nearest(z), self.table())[0].t() - self.projection.outward.bias
            self.projection.outward.weight *= (rows * guess).sum() / guess.square().sum().clamp(min=1e-12)


def flat(latents: Tensor) -> Tensor:
    """``(B, C, *dims)`` to float32 ``(B, C, T)``."""
    return latents.float().flatten(2) if latents.dim() > 2 else latents.float()[:, :, None]


def wait_for_start(quantizer: nn.Module, x: Tensor) -> bool:
    """Count a training step; start ``quantizer`` when its time has come. Returns whether it has started."""
    start = quantizer.start
    if not isinstance(start, DataStart) or quantizer.started():  # type: ignore[operator]
        return True
    collected = start.collect(x)
    if collected is None:
        return False
    quantizer.initialise(*collected)  # type: ignore[operator]
    return True


def unquantized(latents: Tensor, x: Tensor, n_codebooks: int, metrics: dict[str, Tensor]) -> Quantized:
    """The result of a training step before the start: latents as they came."""
    codes = torch.full((latents.shape[0], n_codebooks, *latents.shape[2:]), -1, device=latents.device)
    return Quantized(x.view(latents.shape), codes, x.new_zeros(()), metrics)


def check_latents(latents: Tensor, channels: int) -> None:
    if latents.dim() < 2 or latents.shape[1] != channels or not latents.is_floating_point():
        raise QuantizerError(
            f"latents must be floats (B, {channels}, *dims), not {latents.dtype} {tuple(latents.shape)}"
        )


def check_n_codebooks(n_codebooks: int | None, available: int) -> None:
    if n_codebooks is not None and not 1 <= n_codebooks <= available:
        raise QuantizerError(f"n_codebooks must be from 1 to {available}, not {n_codebooks}")


def check_codes(codes: Tensor, size: int, available: int) -> None:
    if codes.dim() < 2 or not 1 <= codes.shape[1] <= available or codes.dtype != torch.int64:
        raise QuantizerError(f"codes must be int64 (B, 1..{available}, *dims), not {codes.dtype} {tuple(codes.shape)}")
    if codes.numel() and (int(codes.max()) >= size or int(codes.min()) < -1):
        raise QuantizerError(f"codes must be below {size} (or -1 for none)")
