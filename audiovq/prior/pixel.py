"""PixelCNN: an autoregressive prior over a picture's codes, in reading order, then book by book."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.nn.gated_pixelcnn import GatedLayer
from audiovq.prior.model import Drawing


class CausalAttention2d(nn.Module):
    """A position attends to those before it in reading order (Chen et al. 2018, PixelSNAIL, section 2.2).

    Queries come from the horizontal stack, which may know everything before its own cell; keys and values come from
    the same, shifted by one cell, so that a position sees only what earlier ones knew and held.
    """

    def __init__(self, channels: int, n_heads: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.keys = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.place = nn.Parameter(0.02 * torch.randn(1, channels, *size))
        self.out = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def heads(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, heads, H * W, C / heads)."""
        return x.flatten(2).unflatten(1, (self.n_heads, -1)).transpose(2, 3)

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        placed = h + self.place
        query = self.heads(self.query(placed))
        key, value = (self.heads(x) for x in self.keys(placed).chunk(2, dim=1))
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return h + self.out(out.transpose(2, 3).flatten(1, 2).unflatten(2, h.shape[2:]))


class PixelPrior(nn.Module):
    """``p(codes) = prod_(y, x) prod_k p(code[k, y, x] | codes before (y, x), books below k there, condition)``.

    Gated PixelCNN (van den Oord et al. 2016); with ``attention_every`` causal self-attention after every so many
    layers, as in PixelSNAIL and the top prior of VQ-VAE-2 (Razavi et al. 2019, section 3.2). The books of a place are
    predicted one after another from the horizontal stack and the vectors of the books before.

    Args:
        n_codebooks, codebook_size: of the codes.
        size: height and width of the codes.
        channels, n_layers, kernel: of the stacks.
        attention_every: layers between two attentions; 0 for none.
        n_heads: of the attention.
        n_classes: classes that may be asked for.
        context: (books, entries, factor) of the coarser codes that these are conditioned on; None for none.
        context_dim: numbers (B, context_dim) that say what the picture is to be; 0 for none.
        dropout: between the layers in training.
        codec: the model hash, in hexadecimal, of the codec whose codes these are; "" for none.
        name: for messages.
    """

    def __init__(
        self,
        n_codebooks: int,
        codebook_size: int,
        size: tuple[int, int],
        channels: int = 96,
        n_layers: int = 8,
        kernel: int = 3,
        attention_every: int = 0,
        n_heads: int = 4,
        n_classes: int = 0,
        context: tuple[int, int, int] | None = None,
        context_dim: int = 0,
        dropout: float = 0.0,
        codec: str = "",
        name: str = "pixel_prior",
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(  # noqa: C408
            n_codebooks=n_codebooks,
            codebook_size=codebook_size,
            size=list(size),
            channels=channels,
            n_layers=n_layers,
            kernel=kernel,
            attention_every=attention_every,
            n_heads=n_heads,
            n_classes=n_classes,
            context=list(context) if context else None,
            context_dim=context_dim,
            dropout=dropout,
            codec=codec,
            name=name,
        )
        self.n_codebooks, self.codebook_size, self.name, self.codec = n_codebooks, codebook_size, name, codec
        self.size, self.channels, self.dropout = (int(size[0]), int(size[1])), channels, dropout
        self.embedding = nn.ModuleList(nn.Embedding(codebook_size, channels) for _ in range(n_codebooks))
        self.first_v = nn.Conv2d(channels, channels, (kernel // 2 + 1, kernel))
        self.first_h = nn.Conv2d(channels, channels, (1, kernel // 2 + 1))
        self.first_across = nn.Conv2d(channels, channels, 1)
        self.layers = nn.ModuleList(GatedLayer(channels, kernel) for _ in range(n_layers))
        self.attention = nn.ModuleDict(
            {
                str(i): CausalAttention2d(channels, n_heads, self.size)
                for i in range(n_layers)
                if attention_every and (i + 1) % attention_every == 0
            }
        )
        self.classes = nn.Embedding(n_classes + 1, channels) if n_classes else None
        self.context = ContextNet(context, channels) if context else None
        self.vectors = VectorNet(context_dim, channels, self.size) if context_dim else None
        self.tell = nn.ModuleList(nn.Conv2d(channels, 4 * channels, 1) for _ in range(n_layers))
        self.books = nn.ModuleList(nn.Embedding(codebook_size, channels) for _ in range(n_codebooks - 1))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, codebook_size, 1))
            for _ in range(n_codebooks)
        )

    # -- conditions -------------------------------------------------------------------------------------------------

    def condition(
        self, n: int, label: Tensor | None = None, coarser: Tensor | None = None, vectors: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """What each layer's gates are told, (B, 2C, H or 1, W or 1) for both stacks.

        Args:
            label: (B,) class numbers; -1 or None for no class in particular.
            coarser: (B, K', h, w) codes of the coarser level.
            vectors: (B, context_dim) further numbers that say what the picture is to be.
        """
        total = self.first_v.weight.new_zeros(n, self.channels, 1, 1)
        if self.classes is not None:
            number = torch.full((n,), -1, device=total.device) if label is None else label
            total = total + self.classes(number + 1)[:, :, None, None]
        if self.context is not None:
            if coarser is None:
                raise ValueError(f"prior {self.name} needs the codes of the coarser level")
            total = total + self.context(coarser)
        if self.vectors is not None and vectors is not None:
            total = total + self.vectors(vectors)
        told = [tell(total).chunk(2, dim=1) for tell in self.tell]
        return [(a, b) for a, b in told]

    # -- likelihood -------------------------------------------------------------------------------------------------

    def features(self, codes: Tensor, told: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Codes (B, K, H, W) -> the horizontal stack (B, C, H, W), in which a cell knows what comes before it."""
        embedded = self.embed(codes)
        reach = self.first_v.kernel_size[1] // 2
        # Rows above: the kernel's last row is the one before. Columns before: the kernel's last column likewise.
        v = self.first_v(F.pad(embedded, (reach, reach, reach + 1, 0))[:, :, :-1])
        h = self.first_h(F.pad(embedded, (reach + 1, 0))[:, :, :, :-1]) + self.first_across(v)
        for i, (layer, one) in enumerate(zip(self.layers, told, strict=True)):
            v, h = layer(v, h, one)
            if str(i) in self.attention:
                h = self.attention[str(i)](h)
            h = F.dropout(h, self.dropout, self.training)
        return h

    def embed(self, codes: Tensor) -> Tensor:
        """(B, K, H, W) -> (B, C, H, W), the sum of the books' vectors."""
        found = torch.stack([table(codes[:, k]) for k, table in enumerate(self.embedding)]).sum(0)
        return found.movedim(-1, 1)

    def logits(self, codes: Tensor, **condition: Tensor | None) -> Tensor:
        """(B, K, H, W) -> (B, K, V, H, W): logits of each code given what comes before it; see `condition`."""
        h = self.features(codes, self.condition(len(codes), **condition))
        rows = []
        for k, head in enumerate(self.heads):
            rows.append(head(h))
            if k + 1 < self.n_codebooks:
                h = h + self.books[k](codes[:, k]).movedim(-1, 1)
        return torch.stack(rows, 1)

    def nll(self, codes: Tensor, **condition: Tensor | None) -> Tensor:
        """Nats of each code, (B, K, H, W)."""
        return F.cross_entropy(self.logits(codes, **condition).movedim(2, 1).float(), codes, reduction="none")

    # -- sampling ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        n: int = 1,
        drawing: Drawing | None = None,
        seed: int = 0,
        first: int = 0,
        progress: Callable[[int, int], None] | None = None,
        **condition: Tensor | None,
    ) -> Tensor:
        """Draw ``n`` fields of codes -> (n, K, H, W).

        Field i draws from the seed ``(seed, first + i)`` alone. Only what a new code changes is computed: see
        `audiovq.prior.pixel_steps`.
        """
        from audiovq.prior.drawing import draw
        from audiovq.prior.pixel_steps import PixelStepper

        drawing = drawing or Drawing()
        height, width = self.size
        uniforms = np.stack(
            [
                np.random.default_rng([seed, first + i]).random((height, width, self.n_codebooks), np.float32)
                for i in range(n)
            ]
        )
        stepper = PixelStepper(self, n, condition)
        how = (drawing.temperature, drawing.top_k, drawing.top_p)
        codes = torch.zeros(n, self.n_codebooks, height, width, dtype=torch.int64)
        for y in range(height):
            stepper.begin_row(y)
            for x in range(width):
                h = stepper.cell(y, x)
                for k in range(self.n_codebooks):
                    rows = stepper.logits(h, k).float().numpy()
                    drawn = [draw(row, float(u), *how) for row, u in zip(rows, uniforms[:, y, x, k], strict=True)]
                    codes[:, k, y, x] = torch.tensor(drawn)
                    if k + 1 < self.n_codebooks:
                        h = h + self.books[k](codes[:, k, y, x])
                stepper.put(y, x, codes[:, :, y, x])
            if progress is not None:
                progress(y + 1, height)
        return codes

    def save(self, folder: str | Path, dtype: Any = None) -> None:
        """Write ``config.json`` and ``model.safetensors``, float16 by default."""
        from audiovq.weights import save_weights

        save_weights(self, folder, dtype)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> PixelPrior:
        """Load a folder that `save` wrote.

        Raises:
            AudioVQError: when it is not there or damaged.
        """
        from audiovq.weights import load_weights

        return load_weights(cls, folder)


class ContextNet(nn.Module):
    """Codes of a coarser level -> what finer positions are told: embedded, raised, two residual convolutions."""

    def __init__(self, context: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        n_codebooks, codebook_size, self.factor = context
        self.tables = nn.ModuleList(nn.Embedding(codebook_size, channels) for _ in range(n_codebooks))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))

    def forward(self, codes: Tensor) -> Tensor:
        """(B, K, h, w) -> (B, C, h * factor, w * factor)."""
        x = torch.stack([table(codes[:, k]) for k, table in enumerate(self.tables)]).sum(0).movedim(-1, 1)
        x = x + self.convs[0](F.relu(x))
        x = F.interpolate(x, scale_factor=self.factor, mode="nearest")
        for conv in list(self.convs)[1:]:
            x = x + conv(F.relu(x))
        return x


class VectorNet(nn.Module):
    """Numbers that tell of the whole -> what each position is told, through a map of a quarter of the resolution."""

    def __init__(self, dim: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.coarse = size, tuple(-(-edge // 4) for edge in size)
        self.spread = nn.Linear(dim, channels * self.coarse[0] * self.coarse[1])
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, dim) -> (B, C, H, W)."""
        x = self.spread(vectors).unflatten(1, (-1, *self.coarse))
        x = F.interpolate(x, scale_factor=4, mode="bilinear")[:, :, : self.size[0], : self.size[1]]
        return x + self.conv(F.relu(x))
