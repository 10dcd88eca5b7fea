"""Content and detail quantized apart: one codebook for what a recogniser hears, residual codebooks for all else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from audiovq.devices import to_device
from audiovq.quantize.functional import Quantized, check_codes, check_latents, check_n_codebooks, straight_through
from audiovq.quantize.residual import ResidualVectorQuantizer
from audiovq.quantize.vector import VectorQuantizer, waits


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

    def _books(self, n_items: int, n_codebooks: int | Tensor | None) -> Tensor:
        """Number of codebooks of each item, (B,)."""
        if isinstance(n_codebooks, Tensor):
            return n_codebooks
        check_n_codebooks(n_codebooks, self.n_codebooks)
        if n_codebooks is None and self.training and self.book_weights is not None:
            return 1 + torch.multinomial(self.book_weights, n_items, replacement=True)
        return torch.full((n_items,), n_codebooks or self.n_codebooks)
