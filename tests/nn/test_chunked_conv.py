"""Stretches computed one by one equal the whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from audiovq.nn import ChannelNorm, DilatedResidualUnit
from audiovq.nn.convolutions import ENDLESS, Span, SpanConv, SpanProject, SpanUnit


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (3, 1, 5, 5), (4, 2, 1, 1), (1, 1, 0, 1)]
)
def test_conv_on_stretches_equals_the_whole(kernel, stride, padding, dilation):
    torch.manual_seed(0)
    conv = nn.Conv1d(5, 7, kernel, stride, padding, dilation)
    x = torch.randn(1, 5, 64)
    whole = conv(x)[0].t()
    span = SpanConv(conv)
    for start, stop in [(0, 64), (0, 30), (12, 40), (30, 64)]:
        total = 64 if stop == 64 else ENDLESS
        out = span(Span(x[0, :, start:stop].t().contiguous(), start, total))
        assert len(out.rows) > 0
        torch.testing.assert_close(out.rows, whole[out.start : out.stop], atol=1e-5, rtol=1e-5)


def test_a_span_never_gives_rows_that_need_unknown_inputs():
    conv = nn.Conv1d(1, 1, 3, padding=1)
    out = SpanConv(conv)(Span(torch.zeros(10, 1), 20, ENDLESS))
    assert (out.start, out.stop) == (21, 29)


def test_unit_with_folded_modulation_equals_the_module():
    torch.manual_seed(0)
    unit = DilatedResidualUnit(6, dilation=2, condition_dim=4)
    nn.init.normal_(unit.film.weight)
    nn.init.normal_(unit.norm.scale)
    x, condition = torch.randn(1, 6, 40), torch.randn(1, 4)
    whole = unit(x, condition)[0].t()
    out = SpanUnit(unit, condition[0])(Span(x[0].t().contiguous(), 0, 40))
    torch.testing.assert_close(out.rows, whole, atol=1e-5, rtol=1e-5)


def test_project_folds_the_norm():
    torch.manual_seed(0)
    norm, conv = ChannelNorm(6), nn.Conv1d(6, 3, 1)
    nn.init.normal_(norm.scale)
    x = torch.randn(1, 6, 9)
    out = SpanProject(norm, conv)(Span(x[0].t().contiguous(), 0, 9))
    torch.testing.assert_close(out.rows, conv(norm(x))[0].t(), atol=1e-5, rtol=1e-5)
