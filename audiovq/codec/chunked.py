"""The networks of the codec for inference on a stretch of a recording (see `audiovq.nn.chunked_conv`)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from audiovq.codec.decoder import SourceFilterDecoder, side_features
from audiovq.codec.encoder import Trunk
from audiovq.codec.pitch import PitchTracker, decide
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

    def __call__(self, samples: Tensor, start: int, total: int | None) -> tuple[Tensor, int]:
        """Pitch codes (F,) int64 that depend on these samples alone, and the frame of the first.

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
        span = self.classify(span)
        return decide(span.rows.t()[None])[0], span.start


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
        #: Samples of the source needed before and after those that are decoded.
        self.margin = (decoder.overlap // 2 + 1) * decoder.step + decoder.trim

    def __call__(
        self,
        latents: Tensor,
        pitch: Tensor,
        start: int,
        total: int | None,
        first: int,
        last: int,
        source: Tensor,
        n_codebooks: int,
    ) -> Tensor:
        """Samples of frames ``first`` to ``last`` from latents that cover them and their context.

        Args:
            latents: (C, F).
            pitch: (F,) pitch codes.
            start: frame of the first latent.
            total: frames of the recording; None when its end is not known yet.
            first, last: frames that are wanted.
            source: (margin + (last - first) * hop_length + margin,) harmonic source around the wanted samples; zeros
                before the recording and behind it.
            n_codebooks: codebooks that the latents are made from.

        Returns:
            ((last - first) * hop_length,) samples.
        """
        features = self.features(latents, pitch, start, total, n_codebooks)
        return self.synthesize(features, first, last, source, n_codebooks)

    def features(self, latents: Tensor, pitch: Tensor, start: int, total: int | None, n_codebooks: int) -> Span:
        """Features of the backbone, before its last normalisation, as far as the latents determine them.

        Arguments are those of a call.
        """
        has_direct = torch.tensor([n_codebooks >= self.decoder.direct_from], device=pitch.device)
        side = side_features(pitch[None], has_direct)[0]
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

    def synthesize(self, span: Span, first: int, last: int, source: Tensor, n_codebooks: int) -> Tensor:
        """Samples of frames ``first`` to ``last`` from features that cover them and a short frame on either side.

        Arguments are those of a call.
        """
        has_direct = n_codebooks >= self.decoder.direct_from
        decoder, rate = self.decoder, self.decoder.backbone.rate
        # Short frames that cover the wanted samples; there are none before the recording or behind it.
        around = decoder.overlap // 2 + 1
        low = max(first * rate - around, 0)
        high = min(last * rate + around, span.total)
        features = Span(span.rows[low - span.start : high - span.start], low, span.total)
        gains = self.gains(features)
        direct = self.direct(features).rows.t()[None] if has_direct else None
        offset = low * decoder.step - decoder.trim - (first * self.hop_length - self.margin)
        n_frames = high - low
        piece = source[offset : offset + (n_frames - 1) * decoder.step + decoder.n_fft]
        harmonics = torch.fft.rfft(piece.unfold(0, decoder.n_fft, decoder.step) * decoder.window)
        noise = decoder.noise[torch.arange(low, high) % decoder.noise_frames]
        frames = decoder.shape(gains.rows.t()[None], direct, harmonics[None], noise[None])
        samples = decoder.add(frames)[0]
        begin = first * self.hop_length - (low * decoder.step - decoder.trim)
        return samples[begin : begin + (last - first) * self.hop_length]
