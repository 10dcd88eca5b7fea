"""Residual units over time, gated layers over images, and convolutions on stretches of a longer signal.

A `Span` of a longer signal has its position in the whole. Every layer on spans computes exactly the outputs for which
it has all inputs, and pads with zeros only where the signal itself begins or ends, so that stretches computed one by
one equal the whole. Time-major layout (T, C) turns a convolution into plain matrix products over shifted rows, without
copies. The gated layers are causal 2-D convolutions without a blind spot (van den Oord et al. 2016b, section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Root-mean-square normalisation over channels, for channel-first tensors (Zhang and Sennrich 2019, eq. 4).

    Each position is scaled by itself, so that no information leaks along time and outputs do not depend on chunking.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        inverse = torch.rsqrt(x.float().square().mean(dim=1, keepdim=True) + self.eps)
        return x * inverse.to(x.dtype) * self.scale.to(x.dtype)[:, None]


class DilatedResidualUnit(nn.Module):
    """``x + conv1x1(act(film(conv_dilated(norm(x)))))``, with symmetric zero padding that keeps the length.

    With ``condition_dim`` the unit is modulated feature-wise by a vector (Perez et al. 2018, FiLM): a scale around one
    and a shift per channel, both without effect at the start of training.
    """

    def __init__(
        self, channels: int, kernel_size: int = 3, dilation: int = 1, condition_dim: int | None = None
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd to keep the length, got {kernel_size}")
        self.padding = dilation * (kernel_size // 2)
        self.norm = ChannelNorm(channels)
        self.dilated = nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=self.padding)
        self.mix = nn.Conv1d(channels, channels, 1)
        self.film = nn.Linear(condition_dim, 2 * channels) if condition_dim else None
        with torch.no_grad():
            # Near-identity units at the start: a deep stack then trains from the first step.
            self.mix.weight.mul_(0.3)
            if self.film is not None:
                self.film.weight.zero_()
                self.film.bias.zero_()

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, C, T), condition (B, S) -> (B, C, T)."""
        h = self.dilated(self.norm(x))
        if self.film is not None:
            if condition is None:
                raise ValueError("this unit is conditioned: give it a condition vector (B, S)")
            scale, shift = self.film(condition).to(h.dtype).unsqueeze(-1).chunk(2, dim=1)
            h = h + h * scale + shift
        return x + self.mix(F.silu(h))


#: Stands for the length of a signal whose end is not known yet.
ENDLESS = 1 << 60


@dataclass
class Span:
    """Rows ``start`` to ``start + len(rows)`` of a signal of ``total`` rows; `ENDLESS` while its end is unknown."""

    rows: Tensor  # (T, C)
    start: int
    total: int

    @property
    def stop(self) -> int:
        """Index after the last row."""
        return self.start + len(self.rows)


class SpanConv:
    """A `torch.nn.Conv1d` applied to spans.

    Args:
        conv: the layer whose weights are used.
        scale_in: (C_in,) factors of the input, folded into the weights.
        scale_out, shift_out: (C_out,) applied to the output, folded into weights and bias.
    """

    def __init__(
        self,
        conv: nn.Conv1d,
        scale_in: Tensor | None = None,
        scale_out: Tensor | None = None,
        shift_out: Tensor | None = None,
    ) -> None:
        weight, bias = conv.weight.detach(), conv.bias.detach()  # type: ignore[union-attr]
        if scale_in is not None:
            weight = weight * scale_in[:, None]
        if scale_out is not None:
            weight, bias = weight * scale_out[:, None, None], bias * scale_out
        self.bias = bias if shift_out is None else bias + shift_out
        self.kernel, self.stride = conv.kernel_size[0], conv.stride[0]
        self.dilation, self.padding = conv.dilation[0], int(conv.padding[0])
        taps = weight.permute(2, 1, 0).contiguous()  # (kernel, C_in, C_out)
        # Neighbouring taps are contiguous in memory: a single product over overlapping rows serves them all.
        self.joined = self.dilation == 1
        self.taps = [taps.flatten(0, 1)] if self.joined else list(taps)

    def range(self, span: Span) -> tuple[int, int, int]:
        """First output, number of outputs, and the zero rows needed before the span."""
        before = self.padding if span.start == 0 else 0
        low = span.start - before
        high = span.stop + (self.padding if span.stop == span.total else 0)
        first = -(-(low + self.padding) // self.stride)
        last = (high - 1 - self.dilation * (self.kernel - 1) + self.padding) // self.stride
        return first, max(last + 1 - first, 0), before

    def pad(self, span: Span, scale: Tensor | None = None) -> Tensor:
        """Rows times ``scale`` (T, 1), with zero rows where the signal begins or ends."""
        before = self.padding if span.start == 0 else 0
        after = self.padding if span.stop == span.total else 0
        if not before and not after:
            return span.rows if scale is None else span.rows * scale
        rows = span.rows.new_zeros(len(span.rows) + before + after, span.rows.shape[1])
        middle = rows[before : before + len(span.rows)]
        if scale is None:
            middle.copy_(span.rows)
        else:
            torch.mul(span.rows, scale, out=middle)
        return rows

    def __call__(self, span: Span, scale: Tensor | None = None) -> Span:
        first, n_out, before = self.range(span)
        rows = self.pad(span, scale)
        skip = first * self.stride - self.padding - (span.start - before)
        total = span.total if self.stride == 1 else span.total // self.stride
        channels = rows.shape[1]
        if self.joined:
            windows = rows.as_strided(
                (n_out, self.kernel * channels), (self.stride * channels, 1), rows.storage_offset() + skip * channels
            )
            return Span(torch.addmm(self.bias, windows, self.taps[0]), first, total)
        out = self.bias
        for i, tap in enumerate(self.taps):
            shifted = rows[skip + i * self.dilation :: self.stride][:n_out]
            out = torch.addmm(out, shifted, tap) if i == 0 else out.addmm_(shifted, tap)
        return Span(out, first, total)


def inverse_rms(rows: Tensor, eps: float) -> Tensor:
    """(T, C) -> (T, 1), see `ChannelNorm`."""
    return torch.rsqrt(rows.square().mean(dim=1, keepdim=True).add_(eps))


class SpanUnit:
    """A `DilatedResidualUnit` applied to spans, its modulation by ``condition`` (S,) folded into the weights."""

    def __init__(self, unit: DilatedResidualUnit, condition: Tensor | None = None) -> None:
        scale = shift = None
        if unit.film is not None:
            if condition is None:
                raise ValueError("this unit is conditioned: give it a condition vector (S,)")
            scale, shift = unit.film(condition).detach().chunk(2)
            scale = scale + 1
        self.eps = unit.norm.eps
        self.dilated = SpanConv(unit.dilated, unit.norm.scale.detach(), scale, shift)
        self.mix = unit.mix.weight.detach()[:, :, 0].t().contiguous()
        self.bias = unit.mix.bias.detach()  # type: ignore[union-attr]

    def __call__(self, span: Span) -> Span:
        hidden = self.dilated(span, inverse_rms(span.rows, self.eps))
        skip = hidden.start - span.start
        F.silu(hidden.rows, inplace=True)
        out = torch.addmm(self.bias, hidden.rows, self.mix)
        out += span.rows[skip : skip + len(out)]
        return Span(out, hidden.start, span.total)


class SpanProject:
    """`ChannelNorm` and a 1x1 convolution."""

    def __init__(self, norm: ChannelNorm, conv: nn.Conv1d) -> None:
        self.eps = norm.eps
        self.weight = (conv.weight.detach()[:, :, 0] * norm.scale.detach()).t().contiguous()
        self.bias = conv.bias.detach()  # type: ignore[union-attr]

    def __call__(self, span: Span) -> Span:
        rows = torch.addmm(self.bias, span.rows * inverse_rms(span.rows, self.eps), self.weight)
        return Span(rows, span.start, span.total)


def gate(x: Tensor) -> Tensor:
    """Gated activation: tanh of one half of the channels times the sigmoid of the other (ibid., eq. 2)."""
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedLayer(nn.Module):
    """A vertical stack over the rows above and a horizontal stack over the row to the left, both gated.

    The vertical stack at (y, x) reads rows up to y of its input, which holds rows above y only after the first layer's
    shift; the horizontal stack at (y, x) reads columns up to x of its own input in row y, which the first layer shifts
    to columns before x, and the vertical stack. Thus a position depends on all earlier ones and on no later one.

    Args:
        channels: of both stacks.
        kernel: width of the convolutions, odd; the vertical stack reads ``kernel // 2 + 1`` rows of it.
    """

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.kernel = kernel
        self.vertical = nn.Conv2d(channels, 2 * channels, (kernel // 2 + 1, kernel))
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.horizontal = nn.Conv2d(channels, 2 * channels, (1, kernel // 2 + 1))
        self.out = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, v: Tensor, h: Tensor, condition: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Both stacks (B, C, H, W); conditions added in the gates of each (B, 2C, H or 1, W or 1) -> both stacks."""
        reach = self.kernel // 2
        rows = self.vertical(F.pad(v, (reach, reach, reach, 0)))
        cells = self.horizontal(F.pad(h, (reach, 0))) + self.across(rows)
        return gate(rows + condition[0]), h + self.out(gate(cells + condition[1]))


def vertical_row(layer: GatedLayer, v: Tensor, y: int, condition: Tensor) -> tuple[Tensor, Tensor]:
    """Row y of the vertical stack, given its input (B, C, H, W) up to that row and the row's condition (B, 2C, 1, W).

    Returns the horizontal stack's input from it (B, 2C, 1, W), and the stack's output (B, C, 1, W).
    """
    reach = layer.kernel // 2
    window = v[:, :, max(y - reach, 0) : y + 1]
    rows = layer.vertical(F.pad(window, (reach, reach, reach + 1 - window.shape[2], 0)))
    return layer.across(rows), gate(rows + condition)
