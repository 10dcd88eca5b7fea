"""PixelCNN: an autoregressive prior over an image's codes, in raster order, then codebook by codebook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.devices import arguments
from audiovq.nn import Stored
from audiovq.nn.convolutions import GatedLayer, vertical_row
from audiovq.prior.sampling import SamplingConfig


class CausalAttention2d(nn.Module):
    """Self-attention to the positions before in raster order (Chen et al. 2018, PixelSNAIL, section 2.2).

    Queries, keys and values come from the horizontal stack, in which a position depends on earlier codes only.
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


class PixelPrior(Stored, nn.Module):
    """``p(codes) = prod_(y, x) prod_k p(code[k, y, x] | codes before (y, x), codes below k there, condition)``.

    Gated PixelCNN (van den Oord et al. 2016), with causal self-attention after every ``attention_every`` layers, as in
    PixelSNAIL and the top prior of VQ-VAE-2 (Razavi et al. 2019, section 3.2). The codes of a position are predicted
    one after the other from the horizontal stack and the vectors of the codes before.

    Args:
        n_codebooks, codebook_size: of the codes.
        size: height and width of the codes.
        channels, n_layers, kernel: of the stacks.
        attention_every: number of layers between two attention layers; 0 for none.
        n_heads: of the attention.
        n_classes: number of classes; 0 for an unconditional prior.
        context: (codebooks, codebook size, factor) of the coarser codes that are a condition; None for none.
        context_dim: channels of a vector (B, context_dim) that is a condition; 0 for none.
        dropout: between the layers in training.
        codec: the model hash, in hexadecimal, of the codec whose codes are modelled; "" for none.
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
        self.config: dict[str, Any] = arguments(locals())
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
        """Conditions added in each layer's gates, (B, 2C, H or 1, W or 1) for both stacks.

        Args:
            n: B.
            label: (B,) class indices; -1 or None for no class.
            coarser: (B, K', h, w) codes of the coarser level.
            vectors: (B, context_dim).

        Raises:
            ValueError: without the codes of the coarser level that this prior needs.
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
        pairs = [tell(total).chunk(2, dim=1) for tell in self.tell]
        return [(a, b) for a, b in pairs]

    # -- likelihood -------------------------------------------------------------------------------------------------

    def features(self, codes: Tensor, conditions: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Codes (B, K, H, W) -> the horizontal stack (B, C, H, W), which depends on the codes before each position."""
        embedded = self.embed(codes)
        reach = self.first_v.kernel_size[1] // 2
        # Rows above: the kernel's last row is the one before. Columns before: the kernel's last column likewise.
        v = self.first_v(F.pad(embedded, (reach, reach, reach + 1, 0))[:, :, :-1])
        h = self.first_h(F.pad(embedded, (reach + 1, 0))[:, :, :, :-1]) + self.first_across(v)
        for i, (layer, condition) in enumerate(zip(self.layers, conditions, strict=True)):
            v, h = layer(v, h, condition)
            if str(i) in self.attention:
                h = self.attention[str(i)](h)
            h = F.dropout(h, self.dropout, self.training)
        return h

    def embed(self, codes: Tensor) -> Tensor:
        """(B, K, H, W) -> (B, C, H, W), the sum of the codes' vectors."""
        return torch.stack([table(codes[:, k]) for k, table in enumerate(self.embedding)]).sum(0).movedim(-1, 1)

    def logits(self, codes: Tensor, **condition: Tensor | None) -> Tensor:
        """(B, K, H, W) -> (B, K, V, H, W): logits of each code given the codes before it; see `condition`."""
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
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        first: int = 0,
        progress: Callable[[int, int], None] | None = None,
        **condition: Tensor | None,
    ) -> Tensor:
        """Sample the codes of ``n`` images -> (n, K, H, W).

        Image i is a function of ``(seed, first + i)`` alone. `PixelStepper` computes only what a new code changes.

        Args:
            sampling: temperature, top-k and top-p; None: temperature 1, all codes.
            seed: random seed.
            first: number of the first image.
            progress: called with the number of rows done and the total.
            condition: arguments of `condition`.
        """
        from audiovq.prior.kernels import sample_code  # compiled, which needs a cache folder

        sampling = sampling or SamplingConfig()
        height, width = self.size
        uniforms = np.stack(
            [
                np.random.default_rng([seed, first + i]).random((height, width, self.n_codebooks), np.float32)
                for i in range(n)
            ]
        )
        stepper = PixelStepper(self, n, condition)
        settings = (sampling.temperature, sampling.top_k, sampling.top_p)
        codes = torch.zeros(n, self.n_codebooks, height, width, dtype=torch.int64)
        for y in range(height):
            stepper.begin_row(y)
            for x in range(width):
                h = stepper.cell(y, x)
                for k in range(self.n_codebooks):
                    rows = stepper.logits(h, k).float().numpy()
                    pairs = zip(rows, uniforms[:, y, x, k], strict=True)
                    codes[:, k, y, x] = torch.tensor([sample_code(row, float(u), *settings) for row, u in pairs])
                    if k + 1 < self.n_codebooks:
                        h = h + self.books[k](codes[:, k, y, x])
                stepper.put(y, x, codes[:, :, y, x])
            if progress is not None:
                progress(y + 1, height)
        return codes


class ContextNet(nn.Module):
    """Codes of a coarser level as a condition: embedded, upsampled, three residual convolutions."""

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
    """A vector as a condition of each position, through a map of a quarter of the resolution."""

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


class AttentionCache:
    """Keys and values of the positions so far."""

    def __init__(self, attention: CausalAttention2d, n: int, cells: int) -> None:
        channels = attention.query.weight.shape[0]
        self.query, self.keys, self.out = (
            m.weight[:, :, 0, 0] for m in (attention.query, attention.keys, attention.out)
        )
        self.place = attention.place[0].flatten(1).t()  # (cells, C)
        self.n_heads = attention.n_heads
        self.cache = torch.zeros(2, n, attention.n_heads, cells, channels // attention.n_heads)

    def cell(self, h: Tensor, index: int) -> Tensor:
        """The input at a position (n, C) -> its output (n, C); its key and value are stored."""
        placed = h + self.place[index]
        both = F.linear(placed, self.keys).view(len(h), 2, self.n_heads, -1)
        self.cache[:, :, :, index] = both.transpose(0, 1)
        key, value = self.cache[:, :, :, : index + 1]
        query = F.linear(placed, self.query).view(len(h), self.n_heads, 1, -1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return h + F.linear(mixed.flatten(1), self.out)


class PixelStepper:
    """State of sampling ``n`` images code by code, computing only what a new code changes.

    A row of the vertical stacks is computed when the row begins, one position of the horizontal stacks for each code.
    The horizontal stacks read their own row only, so that a position takes a few products of small matrices.
    """

    def __init__(self, prior: PixelPrior, n: int, condition: dict[str, Any]) -> None:
        self.prior, self.n = prior, n
        height, width = prior.size
        self.conditions = [
            tuple(part.expand(n, -1, height, width) for part in pair) for pair in prior.condition(n, **condition)
        ]
        self.embedded = torch.zeros(n, prior.channels, height, width)
        self.layers: list[Any] = list(prior.layers)
        self.v = [torch.zeros_like(self.embedded) for _ in self.layers]
        self.first = _by_position(prior.first_h.weight)
        self.across_weights = [_by_position(layer.horizontal.weight) for layer in self.layers]
        self.out = [layer.out.weight[:, :, 0, 0].t().contiguous() for layer in self.layers]
        self.reach = prior.first_h.kernel_size[1] - 1
        self.attention = {
            int(name): AttentionCache(module, n, height * width)  # type: ignore[arg-type]
            for name, module in prior.attention.items()
        }
        self.heads = [[(head[i].weight[:, :, 0, 0], head[i].bias) for i in (1, 3)] for head in prior.heads]  # type: ignore[index, union-attr]

    def begin_row(self, y: int) -> None:
        """Compute row y of the vertical stacks and clear the horizontal stacks."""
        prior, reach = self.prior, self.prior.first_v.kernel_size[1] // 2
        above = self.embedded[:, :, max(y - reach - 1, 0) : y]
        v = prior.first_v(F.pad(above, (reach, reach, reach + 1 - above.shape[2], 0)))
        self.base = [_by_column(prior.first_across(v) + prior.first_h.bias[:, None, None])]  # type: ignore[index]
        for layer, rows, condition in zip(self.layers, self.v, self.conditions, strict=True):
            rows[:, :, y : y + 1] = v
            across, v = vertical_row(layer, rows, y, condition[0][:, :, y : y + 1])
            bias = layer.horizontal.bias[:, None, None]
            self.base.append(_by_column(across + condition[1][:, :, y : y + 1] + bias))
        width, channels = prior.size[1], prior.channels
        self.row = torch.zeros(width + self.reach + 1, self.n, channels)
        self.h = torch.zeros(len(self.layers), width + self.reach, self.n, channels)

    def cell(self, y: int, x: int) -> Tensor:
        """The horizontal stack at (y, x), (n, C)."""
        channels = self.prior.channels
        left = self.row[x : x + self.reach + 1].transpose(0, 1).flatten(1)
        h = torch.addmm(self.base[0][x], left, self.first)
        for i, row in enumerate(self.h):
            row[x + self.reach] = h
            window = row[x : x + self.reach + 1].transpose(0, 1).flatten(1)
            gates = torch.addmm(self.base[i + 1][x], window, self.across_weights[i])
            h = torch.addmm(h, torch.tanh(gates[:, :channels]) * torch.sigmoid(gates[:, channels:]), self.out[i])
            if i in self.attention:
                h = self.attention[i].cell(h, y * self.prior.size[1] + x)
        return h

    def logits(self, h: Tensor, codebook: int) -> Tensor:
        """(n, C) -> (n, V)."""
        for weight, bias in self.heads[codebook]:
            h = F.linear(F.relu(h), weight, bias)
        return h

    def put(self, y: int, x: int, codes: Tensor) -> None:
        """Store the codes (n, K) of position (y, x)."""
        embedded = self.prior.embed(codes[:, :, None, None])[:, :, 0, 0]
        self.embedded[:, :, y, x] = embedded
        self.row[x + self.reach + 1] = embedded


def _by_position(weight: Tensor) -> Tensor:
    """A 1 x k convolution's weight (out, in, 1, k) -> (k * in, out), to be multiplied by k adjacent positions."""
    return weight[:, :, 0].permute(2, 1, 0).flatten(0, 1).contiguous()


def _by_column(row: Tensor) -> Tensor:
    """(n, C, 1, W) -> (W, n, C)."""
    return row[:, :, 0].permute(2, 0, 1).contiguous()
