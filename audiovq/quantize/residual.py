"""Residual vector quantization, and its split form: content by one codebook, the rest by residual ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audiovq.devices import to_device
from audiovq.quantize.functional import (
    GRADIENTS,
    Quantized,
    QuantizerError,
    check_codes,
    check_latents,
    check_n_codebooks,
    flatten_dims,
    lookup,
    straight_through,
)
from audiovq.quantize.vector import DataInit, VectorQuantizer, unquantized, wait_for_start, waits


class ResidualVectorQuantizer(nn.Module):
    """``n_codebooks`` vector quantizers in sequence (Zeghidour et al. 2021, section III-C).

    Each level sees the residual with everything before it detached. The encoder gets the gradient of the quantized
    latents once, by one straight-through (or rotation) from the latents to the sum of all levels; levels with maps
    into a low-dimensional code space pass it on through these maps. Every level has a commitment loss; the loss is
    their mean over the levels in use.

    Recommended settings: EMA codebooks in the space of the latents (``codebook_dim=None``), 64 to 128 channels. They
    are k-means solutions from their first step on and follow the encoder without a learning rate, which matters when
    the whole training is a few thousand steps; with restarts all 1024 codes of each level stay in use. On normalised
    log mel spectra of speech (64 bands, 576 vectors a step, 600 steps, 1/2/4/8 codebooks) their residual had
    .104/.065/.038/.018 of the variance; that of ``codebook_dim=8`` .177/.117/.068/.021, with ``normalised=True``
    .231/.136/.075/.026: maps learned by gradient (Kumar et al. 2023, section 3.2) need longer trainings or larger
    codebooks to pay off.

    Args:
        n_codebooks: number of levels.
        dropout: probability with which an item of a training batch uses a random number of codebooks, 1 to
            ``n_codebooks`` (Kumar et al. 2023, section 3.3); not when a call names ``n_codebooks``.
        dropout_weights: relative frequencies of 1, 2, ... ``n_codebooks`` codebooks; None: equally often.
        level_settings: ``codebook_dim``, ``normalised``, ``codebook``, ``beta``, ``decay``, ``restart_below``, ``rate``
            of each level; these and the other arguments are those of `VectorQuantizer`.

    Raises:
        QuantizerError: settings, latents or codes that do not fit.
    """

    def __init__(
        self,
        channels: int,
        n_codebooks: int = 8,
        codebook_size: int = 1024,
        gradient: str = "straight_through",
        init_after: int | None = 0,
        init_batches: int = 8,
        dropout: float = 0.0,
        dropout_weights: Sequence[float] | None = None,
        seed: int = 0,
        **level_settings: Any,
    ) -> None:
        super().__init__()
        if n_codebooks < 1 or not 0 <= dropout <= 1:
            raise QuantizerError("n_codebooks must be at least 1 and dropout a probability")
        if dropout_weights is not None and (len(dropout_weights) != n_codebooks or min(dropout_weights) < 0):
            raise QuantizerError(f"dropout_weights must be {n_codebooks} numbers, none of them negative")
        self.channels, self.n_codebooks, self.codebook_size = channels, n_codebooks, codebook_size
        self.dropout = dropout
        self.dropout_weights = torch.tensor(dropout_weights or [1.0] * n_codebooks, dtype=torch.float32)
        self.levels = nn.ModuleList(
            VectorQuantizer(
                channels,
                codebook_size,
                gradient=gradient,
                init_after=None,  # all levels start together, below
                seed=seed + level,
                **level_settings,
            )
            for level in range(n_codebooks)
        )
        self.estimate = GRADIENTS[gradient]
        self.start: DataInit | None = None
        if init_after is not None:
            self.start = DataInit(channels, init_after, init_batches, 32 * codebook_size)
            for level in self._levels():
                level.codebook.initialised.fill_(False)

    def forward(self, latents: Tensor, n_codebooks: int | Tensor | None = None) -> Quantized:
        """Quantize ``latents (B, C, *dims)`` with the first ``n_codebooks`` levels, in training as in evaluation.

        A tensor (B,) gives the number of codebooks of each item, which may be 0.
        """
        check_latents(latents, self.channels)
        if not isinstance(n_codebooks, Tensor):
            check_n_codebooks(n_codebooks, self.n_codebooks)
        with torch.autocast(latents.device.type, enabled=False):
            x = flatten_dims(latents)
            if self.training and not wait_for_start(self, x):
                nothing = [level.codebook.usage.metrics(level.codebook.counts * 0) for level in self._levels()]
                return unquantized(latents, x, self.n_codebooks, _joint(nothing))
            value, path, codes, losses, metrics = self._quantize(x, n_codebooks)
            if torch.is_grad_enabled():
                value = straight_through(self.estimate(x, value) if path is None else path, value)
        shape = latents.shape
        loss = torch.stack(losses).mean() if losses else value.new_zeros(())
        return Quantized(value.view(shape), codes.view(*codes.shape[:2], *shape[2:]), loss, _joint(metrics))

    @torch.no_grad()
    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Codes ``(B, n_codebooks, *dims)`` of ``latents (B, C, *dims)``."""
        check_latents(latents, self.channels)
        check_n_codebooks(n_codebooks, self.n_codebooks)
        codes = []
        with torch.autocast(latents.device.type, enabled=False):
            value = torch.zeros_like(x := flatten_dims(latents))
            for level in self._levels()[:n_codebooks]:
                codes.append(level.codebook.nearest(level.reduce(x - value)))
                value = value + lookup(codes[-1], level.table())
        return torch.stack(codes, 1).view(latents.shape[0], len(codes), *latents.shape[2:])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Latents ``(B, C, *dims)`` of ``codes (B, 1 to n_codebooks, *dims)``."""
        check_codes(codes, self.codebook_size, self.n_codebooks)
        return self.latents_of(codes)

    @torch.no_grad()
    def latents_of(self, codes: Tensor) -> Tensor:
        """As `decode`, for codes that need no check, for which the host would wait."""
        levels = codes.flatten(2) if codes.dim() > 2 else codes[:, :, None]
        with torch.autocast(codes.device.type, enabled=False):
            value = torch.zeros((), device=codes.device)
            for level, chosen in zip(self._levels(), levels.unbind(1), strict=False):
                value = value + lookup(chosen, level.table())
        return value.view(codes.shape[0], self.channels, *codes.shape[2:])

    @torch.no_grad()
    def count_bits(self, latents: Tensor, iterations: int = 10) -> None:
        """Fit the bits of codes (``rate``) to ``latents (B, C, *dims)``, level after level; vectors stay.

        Bits depend on use, and use on bits: each is computed from the other ``iterations`` times.
        """
        check_latents(latents, self.channels)
        x = flatten_dims(latents)
        for level in self._levels():
            z = level.reduce(x)
            for _ in range(iterations if level.codebook.rate > 0 else 0):
                codes = level.codebook.nearest(z)
                level.codebook.count_bits(torch.bincount(codes.flatten(), minlength=self.codebook_size).float())
            x = x - lookup(level.codebook.nearest(z), level.table())

    def started(self) -> bool:
        """Whether the codebooks have their first vectors."""
        return self.start is None or self.start.over or bool(self._levels()[-1].codebook.initialised)

    @torch.no_grad()
    def initialise(self, vectors: Tensor, batch_size: float) -> None:
        """Start level after level from latents ``vectors (M, C)``, the same on every rank."""
        for level in self._levels():
            level.initialise(vectors, batch_size)
            codes = level.codebook.nearest(level.reduce(vectors.t()[None]))
            vectors = vectors - lookup(codes, level.table())[0].t()

    def _quantize(
        self, x: Tensor, n_codebooks: int | Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor, list[Tensor], list[dict[str, Tensor]]]:
        """``x (B, C, T)`` -> exact value, tensor with its gradient (None: the latents), codes, losses, metrics."""
        n_levels = self.n_codebooks if n_codebooks is None or isinstance(n_codebooks, Tensor) else n_codebooks
        n_used = self._n_used(len(x), n_codebooks).cpu()
        chosen_items = [(n_used > index).nonzero()[:, 0] for index in range(n_levels)]
        items = to_device(torch.cat(chosen_items), x.device).split([len(active) for active in chosen_items])
        value = torch.zeros_like(x)
        codes = torch.full((len(x), n_levels, x.shape[2]), -1, device=x.device)
        # Two paths for the gradient through maps: ``mapped`` to the maps of each level, whose input is detached, and
        # ``chained`` to the latents, through all maps held fixed, so that no gradient is passed on twice.
        through_maps = self._levels()[0].projection is not None and torch.is_grad_enabled()
        mapped = chained = torch.zeros_like(x)
        losses, metrics = [], []
        for index, level in enumerate(self._levels()[:n_levels]):
            active = items[index]
            whole = len(active) == len(x)

            def pick(tensor: Tensor, active: Tensor = active, whole: bool = whole) -> Tensor:
                return tensor if whole else tensor.index_select(0, active)

            def put(base: Tensor, added: Tensor, active: Tensor = active, whole: bool = whole) -> Tensor:
                return base + added if whole else base.index_add(0, active, added)

            residual = pick(x) - pick(value)  # value carries no gradient: each level commits by itself
            z = level.reduce(residual)
            assigned, level_metrics = level.assign(z)
            metrics.append(level_metrics)
            if len(active) == 0:  # on this rank; others may use the level, so the statistics above had to be exchanged
                continue
            chosen = level.look_up(assigned)
            losses.append(level.loss(z, assigned, chosen))
            if through_maps:
                mapped = put(mapped, level.surrogate(level.reduce(residual.detach()), chosen))
                left = level.reduce(pick(x - chained), frozen=True)
                chained = put(chained, level.surrogate(left, chosen, frozen=True))
            value = put(value, level.expand(assigned, chosen))
            codes[active, index] = assigned
        path = mapped + chained if through_maps else None
        return value, path, codes, losses, metrics

    def _n_used(self, n_items: int, n_codebooks: int | Tensor | None) -> Tensor:
        """Number of codebooks for each item of a batch."""
        if isinstance(n_codebooks, Tensor):
            return n_codebooks
        n_used = torch.full((n_items,), self.n_codebooks if n_codebooks is None else n_codebooks)
        if n_codebooks is None and self.training and self.dropout > 0:
            random = 1 + torch.multinomial(self.dropout_weights, n_items, replacement=True)
            n_used = torch.where(torch.rand(n_items) < self.dropout, random, n_used)
        return n_used

    def _levels(self) -> list[VectorQuantizer]:
        return [level for level in self.levels if isinstance(level, VectorQuantizer)]


def _joint(metrics: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Means over the levels (restarts: sum) under the plain name, and ``name/level`` for each level."""
    joint: dict[str, Tensor] = {}
    for name in metrics[0]:
        values = torch.stack([level[name] for level in metrics])
        joint[name] = values.sum() if name == "restarts" else values.mean()
        joint.update({f"{name}/{index}": value for index, value in enumerate(values)})
    return joint


class SplitQuantizer(nn.Module):
    """A vector quantizer for the first ``content_dim`` channels, a residual one for the others (Défossez et al. 2024,
    Mimi, section 3.3.3).

    The detail channels are quantized after a linear prediction from the quantized content has been taken off, so that
    detail codes need not repeat what the content code says. Quantized latents hold the content vector and the sum of
    the detail vectors, without the prediction: whoever reads them has both.

    Args:
        content_dim, detail_dim: channels of the latents, in this order.
        n_codebooks: of content and detail together.
        codebook_size: codes of each.
        content, detail: further settings of `VectorQuantizer` and `ResidualVectorQuantizer`.
        book_weights: how often 1, 2, ... ``n_codebooks`` are drawn for an item of a training batch; None: all are used.
        content_gradient: share of the decoder's gradient that reaches the content latents.
    """

    def __init__(
        self,
        content_dim: int,
        detail_dim: int,
        n_codebooks: int = 8,
        codebook_size: int = 1024,
        content: dict[str, Any] | None = None,
        detail: dict[str, Any] | None = None,
        book_weights: list[float] | None = None,
        content_gradient: float = 1.0,
    ) -> None:
        super().__init__()
        self.channels, self.content_dim, self.detail_dim = content_dim + detail_dim, content_dim, detail_dim
        self.n_codebooks, self.codebook_size = n_codebooks, codebook_size
        self.content_gradient = content_gradient
        self.beta = (detail or {}).get("beta", 0.25)
        self.content = VectorQuantizer(content_dim, codebook_size, **(content or {}))
        self.detail = ResidualVectorQuantizer(detail_dim, n_codebooks - 1, codebook_size, **(detail or {}))
        self.predict = nn.Linear(content_dim, detail_dim, bias=False)
        nn.init.zeros_(self.predict.weight)
        self.book_weights = torch.tensor(book_weights, dtype=torch.float32) if book_weights else None

    def forward(self, latents: Tensor, n_codebooks: int | Tensor | None = None) -> Quantized:
        """Quantize ``latents (B, C, F)`` with the first ``n_codebooks``, one number or (B,) for each item."""
        check_latents(latents, self.channels)
        books = self._books(len(latents), n_codebooks).cpu()
        content = self.content(latents[:, : self.content_dim])
        detail_in = latents[:, self.content_dim :].float() - self.prediction(content.latents)
        detail, commitment = self._detail(detail_in, books)
        detail_codes = detail.codes if not isinstance(n_codebooks, int) else detail.codes[:, : n_codebooks - 1]
        share = self.content_gradient
        passed = content.latents * share + content.latents.detach() * (1 - share)
        metrics = {f"{name}/detail": value for name, value in detail.metrics.items() if "/" not in name}
        return Quantized(
            latents=torch.cat([passed, detail.latents], dim=1),
            codes=torch.cat([content.codes, detail_codes], dim=1),
            loss=content.loss + commitment,
            metrics={**content.metrics, **metrics},
            n_codebooks=int(not waits(self.content)) + int(not waits(self.detail)) * (books - 1),
        )

    def _detail(self, x: Tensor, books: Tensor) -> tuple[Quantized, Tensor]:
        """Quantize detail latents with all levels, and pass on the first ``books - 1`` of each item.

        Every level thus learns from every item. The commitment is to the sum of all levels alone: one to the first
        levels would pull everything out of the latents that only the last ones can hold.
        """
        whole = self.detail(x, self.detail.n_codebooks)
        if not self.detail.started():
            return whole, whole.loss
        books = to_device(books, x.device)
        level = torch.arange(1, self.n_codebooks, device=x.device)
        used = (level < books[:, None])[..., None].expand_as(whole.codes)
        codes = torch.where(used, whole.codes, -1)
        value = self.detail.latents_of(codes)
        commitment = self.beta * (x - whole.latents.detach()).square().sum(1).mean()
        if torch.is_grad_enabled():  # items without detail have nothing that a gradient could come from
            value = torch.where((books > 1)[:, None, None], straight_through(x, value), value)
        return Quantized(value, codes, whole.loss, whole.metrics), commitment

    def prediction(self, content: Tensor) -> Tensor:
        """What content vectors (B, content_dim, F) tell of the detail latents, (B, detail_dim, F)."""
        return torch.einsum("dc,bcf->bdf", self.predict.weight, content.detach().float())

    @torch.no_grad()
    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Codes ``(B, n_codebooks, F)`` of ``latents (B, C, F)``."""
        check_latents(latents, self.channels)
        check_n_codebooks(n_codebooks, self.n_codebooks)
        n = n_codebooks or self.n_codebooks
        codes = self.content.encode(latents[:, : self.content_dim])
        if n == 1:
            return codes
        predicted = self.prediction(self.content.decode(codes))
        detail = self.detail.encode(latents[:, self.content_dim :].float() - predicted, n - 1)
        return torch.cat([codes, detail], dim=1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Latents ``(B, C, F)`` of ``codes (B, 1 to n_codebooks, F)``."""
        check_codes(codes, self.codebook_size, self.n_codebooks)
        content = self.content.decode(codes[:, :1])
        if codes.shape[1] == 1:
            detail = content.new_zeros(len(codes), self.detail_dim, *codes.shape[2:])
        else:
            detail = self.detail.decode(codes[:, 1:])
        return torch.cat([content, detail], dim=1)

    def started(self) -> bool:
        """Whether the codebooks have their first vectors."""
        return self.content.started() and self.detail.started()

    def draw_n_codebooks(self, n_items: int) -> Tensor:
        """Numbers of codebooks (B,) for the items of a training batch, on the host."""
        if self.book_weights is None:
            return torch.full((n_items,), self.n_codebooks)
        return 1 + torch.multinomial(self.book_weights, n_items, replacement=True)

    def _books(self, n_items: int, n_codebooks: int | Tensor | None) -> Tensor:
        """Number of codebooks of each item, (B,)."""
        if isinstance(n_codebooks, Tensor):
            return n_codebooks
        check_n_codebooks(n_codebooks, self.n_codebooks)
        if n_codebooks is None and self.training:
            return self.draw_n_codebooks(n_items)
        return torch.full((n_items,), n_codebooks or self.n_codebooks)
