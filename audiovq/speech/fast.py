"""Encoder and parallel decoder for inference on stretches of a recording (see `audiovq.nn.chunked_conv`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiovq.nn import DilatedResidualUnit
from audiovq.nn.chunked_conv import ENDLESS, Span, SpanConv, SpanProject, SpanUnit
from audiovq.speech.encoder import SpeechEncoder
from audiovq.speech.parallel import ParallelDecoder


class SpanEncoder:
    """A `SpeechEncoder` with its weights folded for inference. Make it anew when the weights change."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        self.filterbank, self.hop_length = encoder.filterbank, encoder.hop_length
        self.layers = [self._fold(layer) for layer in encoder.layers]
        norm, conv = encoder.project.children()
        self.project = SpanProject(norm, conv)  # type: ignore[arg-type]

    @staticmethod
    def _fold(layer: nn.Module):
        if isinstance(layer, DilatedResidualUnit):
            return SpanUnit(layer)
        if isinstance(layer, nn.Conv1d):
            return SpanConv(layer)
        return lambda span: Span(layer(span.rows), span.start, span.total)

    def __call__(self, samples: Tensor, start: int, total: int | None) -> Span:
        """Latents of a stretch.

        Args:
            samples: (T,), whole hops.
            start: position of the first sample in the recording, a multiple of the hop length.
            total: samples of the recording in whole hops; None when its end is not known yet.

        Returns:
            The latents that depend on these samples alone, as rows (F, C).
        """
        stride = self.filterbank.stride if self.filterbank is not None else 1
        if self.filterbank is not None:
            # The filterbank pads both ends: outputs that touch padding inside the recording are cut away.
            rows = self.filterbank(samples[None, None])[0].t().contiguous()
            reach = -(-self.filterbank.padding // stride)
            low = 0 if start == 0 else reach
            high = len(rows) if total == start + len(samples) else len(rows) - reach
            span = Span(rows[low:high], start // stride + low, ENDLESS if total is None else total // stride)
        else:
            span = Span(samples[:, None], start, ENDLESS if total is None else total)
        for layer in self.layers:
            span = layer(span)
        return self.project(span)


class SpanDecoder:
    """A `ParallelDecoder` with its weights and one speaker vector folded for inference."""

    def __init__(self, decoder: ParallelDecoder, condition: Tensor) -> None:
        self.head, self.hop_length = decoder.head, decoder.hop_length
        self.entry, self.noise = SpanConv(decoder.entry), decoder.noise
        self.stages = [[SpanUnit(unit, condition) for unit in units] for units in decoder.stages]  # type: ignore[attr-defined]
        self.upsamplers = []
        for layer, channels in zip(decoder.upsamplers, decoder.channels[1:], strict=True):
            weight, bias = layer.weight.detach()[:, :, 0], layer.bias.detach()  # type: ignore[union-attr,operator]
            factor = len(weight) // channels
            # Rows come out as (step, channel): neighbouring steps of time then lie behind each other in memory.
            weight = weight.view(channels, factor, -1).transpose(0, 1).flatten(0, 1).t().contiguous()
            self.upsamplers.append((weight, bias.view(channels, factor).t().flatten(), factor))
        self.project = SpanProject(decoder.norm, decoder.head.project)

    def __call__(self, latents: Tensor, start: int, total: int | None, first: int, last: int) -> Tensor:
        """Samples of frames ``first`` to ``last`` from latents that cover them and their context.

        Args:
            latents: (C, F).
            start: frame of the first latent.
            total: frames of the recording; None when its end is not known yet.

        Returns:
            ((last - first) * hop_length,) samples.
        """
        span = self.entry(Span(latents.t().contiguous(), start, ENDLESS if total is None else total))
        rate = 1
        for i, units in enumerate(self.stages):
            if i == len(self.stages) - 1:
                span.rows.add_(self.noise.at(torch.tensor([span.start]), len(span.rows))[0])
            for unit in units:
                span = unit(span)
            if i < len(self.upsamplers):
                weight, bias, factor = self.upsamplers[i]
                rows = torch.addmm(bias, span.rows, weight).view(len(span.rows) * factor, -1)
                span = Span(rows, span.start * factor, span.total * factor)
                rate *= factor
        spectrum = self.project(span)
        head = self.head
        frames = head.frames(spectrum.rows.t()[None])
        padded, hop = head.add(frames)[0], head.hop_length
        offset = spectrum.start * hop - (head.n_fft - hop) // 2  # position of the first sample
        return padded[first * self.hop_length - offset : last * self.hop_length - offset]
