"""The networks of the codec for inference on a stretch of a recording (see `audiovq.nn.chunked_conv`)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from audiovq.codec.decoder import SourceFilterDecoder, side_features
from audiovq.codec.encoder import Trunk
from audiovq.codec.pitch import PitchTracker
from audiovq.nn import DilatedResidualUnit
from audiovq.nn.chunked_conv import ENDLESS, Span, SpanConv, SpanProject, SpanUnit


class ChunkedTrunk:
    """A `Trunk` with its weights and its condition vector folded for inference.

    Args:
        trunk: whose weights are taken.
        condition: (S,) vector, where the trunk is conditioned.
    """

    def __init__(self, trunk: Trunk, condition: Tensor | None = None) -> None:
        self.filterbank = trunk.filterbank
        self.layers = [self._fold(layer, condition) for layer in trunk.layers]
        norm, conv = trunk.project.children()
        self.project = SpanProject(norm, conv)  # type: ignore[arg-type]

    @staticmethod
    def _fold(layer: nn.Module, condition: Tensor | None) -> Callable[[Span], Span]:
        if isinstance(layer, DilatedResidualUnit):
            return SpanUnit(layer, condition)
        if isinstance(layer, nn.Conv1d):
            return SpanConv(layer)
        return lambda span: Span(layer(span.rows), span.start, span.total)

    def __call__(self, samples: Tensor, start: int, total: int | None, reference: Tensor | None = None) -> Span:
        """Latents of a stretch.

        Args:
            samples: (T,), whole hops.
            start: position of the first sample in the recording, a multiple of the hop length.
            total: samples of the recording in whole hops; None when its end is not known yet.
            reference: (T,) signal whose phase is compared with.

        Returns:
            The latents that depend on these samples alone, as rows (F, C).
        """
        if self.filterbank is None:
            span = Span(samples[:, None], start, ENDLESS if total is None else total)
        else:
            # The filterbank pads both ends: outputs that touch padding inside the recording are cut away.
            other = None if reference is None else reference[None, None]
            rows = self.filterbank(samples[None, None], other)[0].t().contiguous()
            stride = self.filterbank.stride
            reach = -(-self.filterbank.padding // stride)
            low = 0 if start == 0 else reach
            high = len(rows) if total == start + len(samples) else len(rows) - reach
            span = Span(rows[low:high], start // stride + low, ENDLESS if total is None else total // stride)
        for layer in self.layers:
            span = layer(span)
        return self.project(span)


class ChunkedPitchTracker:
    """A `PitchTracker` with its weights folded for inference."""

    def __init__(self, tracker: PitchTracker) -> None:
        self.tracker, self.hop_length = tracker, tracker.hop_length
        self.entry = SpanConv(tracker.entry)
        self.units = [SpanUnit(unit) for unit in tracker.units]  # type: ignore[arg-type]
        self.classify = SpanProject(tracker.norm, tracker.classify)

    def __call__(self, samples: Tensor, start: int, total: int | None) -> Span:
        """Logits of pitch codes, as rows (F, N_VALUES + 1), that depend on these samples alone.

        Args:
            samples: (T,), whole frames, level-normalised.
            start: position of the first sample, a multiple of the hop length.
            total: samples of the recording in whole frames; None when its end is not known yet.
        """
        rows = self.tracker.features(samples[None, None])[0].t().contiguous()
        reach = -(-(self.tracker.n_fft - self.hop_length) // 2 // self.hop_length)
        low = 0 if start == 0 else reach
        high = len(rows) if total == start + len(samples) else len(rows) - reach
        frames = ENDLESS if total is None else total // self.hop_length
        span = self.entry(Span(rows[low:high], start // self.hop_length + low, frames))
        for unit in self.units:
            span = unit(span)
        return self.classify(span)


class ChunkedDecoder:
    """A `SourceFilterDecoder` with its weights and one speaker vector folded for inference."""

    def __init__(self, decoder: SourceFilterDecoder, condition: Tensor) -> None:
        self.decoder, self.hop_length = decoder, decoder.hop_length
        backbone = decoder.backbone
        self.entry = SpanConv(backbone.entry)
        self.stages = [[SpanUnit(unit, condition) for unit in units] for units in backbone.stages]  # type: ignore[attr-defined]
        self.upsamplers = []
        for layer, channels in zip(backbone.upsamplers, backbone.channels[1:], strict=True):
            weight, bias = layer.weight.detach()[:, :, 0], layer.bias.detach()  # type: ignore[union-attr,operator]
            factor = len(weight) // channels
            # Rows come out as (step, channel): neighbouring steps of time then lie behind each other in memory.
            weight = weight.view(channels, factor, -1).transpose(0, 1).flatten(0, 1).t().contiguous()
            self.upsamplers.append((weight, bias.view(channels, factor).t().flatten(), factor))
        self.norm = backbone.norm
        self.gains, self.direct = (SpanProject(backbone.norm, conv) for conv in (decoder.gains, decoder.direct))

    def features(self, latents: Tensor, pitch: Tensor, start: int, total: int | None, has_direct: bool) -> Span:
        """Features of the backbone, before its last normalisation, as far as the latents determine them.

        Args:
            latents: (C, F).
            pitch: (F,) pitch codes.
            start: frame of the first latent.
            total: frames of the recording; None when its end is not known yet.
            has_direct: whether the part without a source is wanted, too.
        """
        side = side_features(pitch[None], torch.tensor([has_direct], device=pitch.device))[0]
        rows = torch.cat([latents, side]).t().contiguous()
        span = self.entry(Span(rows, start, ENDLESS if total is None else total))
        for i, units in enumerate(self.stages):
            for unit in units:
                span = unit(span)
            if i < len(self.upsamplers):
                weight, bias, factor = self.upsamplers[i]
                rows = torch.addmm(bias, span.rows, weight).view(len(span.rows) * factor, -1)
                span = Span(rows, span.start * factor, span.total * factor)
        return span

    def project(self, span: Span, frames: range, has_direct: bool) -> tuple[Tensor, Tensor | None]:
        """Gains (N, 4 * bins) of the sources and (N, 3 * bins) of the part without a source, for N short frames."""
        part = Span(span.rows[frames.start - span.start : frames.stop - span.start], frames.start, span.total)
        return self.gains(part).rows, self.direct(part).rows if has_direct else None
