"""Convolutions for inference on a chunk of a longer signal: folded weights, time-major matrices, no wasted border.

A `Span` has its position in the whole signal. Every layer computes exactly the outputs for which it has all inputs,
and pads with zeros only where the signal itself begins or ends, so that chunks computed one by one equal the whole.
Time-major layout (T, C) turns a convolution into plain matrix products over shifted rows, without copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.nn.residual import ChannelNorm, DilatedResidualUnit

#: Stands for the length of a signal whose end is not known yet.
ENDLESS = 1 << 60


@dataclass
class Span:
    """Rows ``start`` to ``start + len(rows)`` of a signal of ``total`` rows.

    Attributes:
        rows: (T, C).
        start: index of the first row in the whole signal.
        total: rows of the whole signal; `ENDLESS` when its end is not known yet.
    """

    rows: Tensor
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
