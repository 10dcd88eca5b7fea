"""The codec's networks in PyTorch, their weights folded for inference on stretches (see `audiovq.nn.convolutions`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from audiovq.codec.coding import Codebooks, Table
from audiovq.codec.decoder import SourceFilterDecoder, side_features
from audiovq.codec.encoder import PitchTracker, Trunk
from audiovq.devices import full_precision
from audiovq.interfaces import CodecShape, Stretch
from audiovq.nn import DilatedResidualUnit
from audiovq.nn.convolutions import ENDLESS, Span, SpanConv, SpanProject, SpanUnit
from audiovq.quantize.residual import SplitQuantizer
from audiovq.quantize.vector import VectorQuantizer

if TYPE_CHECKING:
    from audiovq.codec.codec import CodecNetworks

MOST_SPEAKERS = 4
"""Speakers for whom folded weights are kept."""


class TorchEngine:
    """An `audiovq.interfaces.Engine`: a codec's networks, float32, in evaluation mode, on any device.

    It keeps the weights as they are when it is made.
    """

    def __init__(self, networks: CodecNetworks) -> None:
        self._networks = networks
        self._hop = networks.hop_length
        self._device = next(networks.parameters()).device
        self._shape = shape_of(networks)
        self._content = ChunkedTrunk(networks.encoder.content)
        self._pitch = ChunkedPitchTracker(networks.pitch)
        # The speaker vector is folded into the weights; as many are kept as a recording may have channels.
        self._details = lru_cache(MOST_SPEAKERS)(self._make_detail)
        self._decoders = lru_cache(MOST_SPEAKERS)(self._make_decoder)

    @full_precision
    def speaker(self, samples: np.ndarray) -> np.ndarray:
        """See `audiovq.interfaces.Engine`, as for the other methods."""
        return self._networks.speaker_encoder.levels_of(self._tensor(samples)[None, None])[0].cpu().numpy()

    @full_precision
    def pitch(self, samples: np.ndarray, stretch: Stretch) -> np.ndarray:
        span = self._pitch(self._tensor(samples), stretch.start * self._hop, self._total(stretch))
        return span.rows[stretch.first - span.start : stretch.last - span.start].cpu().numpy()

    @full_precision
    def latents(self, samples: np.ndarray, source: np.ndarray, speaker: np.ndarray, stretch: Stretch) -> np.ndarray:
        waveform, start, total = self._tensor(samples), stretch.start * self._hop, self._total(stretch)
        detail = self._details(speaker.tobytes())
        spans = self._content(waveform, start, total), detail(waveform, start, total, self._tensor(source))
        rows = [span.rows[stretch.first - span.start : stretch.last - span.start] for span in spans]
        return torch.cat(rows, dim=1).cpu().numpy().T

    @full_precision
    def gains(
        self, latents: np.ndarray, pitch: np.ndarray, speaker: np.ndarray, direct: np.ndarray, stretch: Stretch
    ) -> tuple[np.ndarray, np.ndarray | None]:
        decoder = self.decoder(speaker)
        inputs = self._tensor(latents), self._tensor(pitch), self._tensor(direct)
        span = decoder.features(*inputs, stretch.start, stretch.total)
        gains, without_source = decoder.project(span, self._shape.short_frames(stretch), bool(direct.any()))
        return gains.cpu().numpy(), None if without_source is None else without_source.cpu().numpy()

    def decoder(self, speaker: np.ndarray) -> ChunkedDecoder:
        """The decoder for a speaker vector (S,)."""
        return self._decoders(speaker.tobytes())

    def _make_detail(self, speaker: bytes) -> ChunkedTrunk:
        return ChunkedTrunk(self._networks.encoder.detail, self._tensor(np.frombuffer(speaker, np.float32).copy()))

    def _make_decoder(self, speaker: bytes) -> ChunkedDecoder:
        return ChunkedDecoder(self._networks.decoder, self._tensor(np.frombuffer(speaker, np.float32).copy()))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _total(self, stretch: Stretch) -> int | None:
        return None if stretch.total is None else stretch.total * self._hop


def shape_of(networks: CodecNetworks) -> CodecShape:
    """The sizes of a codec's networks."""
    encoder, decoder, speaker = networks.encoder, networks.decoder, networks.speaker_encoder
    return CodecShape(
        sample_rate=networks.sample_rate,
        hop_length=networks.hop_length,
        latent_dim=encoder.latent_dim,
        encoder_context=encoder.context_frames,
        detail_context=encoder.detail.context_frames,
        pitch_context=networks.pitch.context_frames,
        decoder_context=decoder.context_frames,
        step=decoder.step,
        overlap=decoder.overlap,
        direct_from=decoder.direct_from,
        speaker_dim=speaker.dim,
        speaker_levels=speaker.levels,
    )


def codebooks_of(quantizer: SplitQuantizer) -> Codebooks:
    """The tables of a quantizer."""
    return Codebooks(
        _table(quantizer.content),
        [_table(level) for level in quantizer.detail.levels if isinstance(level, VectorQuantizer)],
        quantizer.predict.weight.detach().cpu().numpy(),
    )


@torch.no_grad()
def _table(level: VectorQuantizer) -> Table:
    inward = None if level.projection is None else level.projection.inward
    costs = level.codebook.costs()
    return Table(
        search=level.codebook.table().cpu().numpy(),
        values=level.table().cpu().numpy(),
        costs=None if costs is None else costs.cpu().numpy(),
        weight=None if inward is None else inward.weight.cpu().numpy(),
        bias=None if inward is None else inward.bias.cpu().numpy(),
        normalised=level.normalised,
    )


# -- networks on stretches ---------------------------------------------------------------------------------------------


class ChunkedTrunk:
    """A `Trunk` with its weights and its condition vector (S,), where it has one, folded for inference."""

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
        """Samples and reference signal (T,), whole hops -> the latents that depend on these alone, as rows (F, C).

        ``start`` is the position of the first sample in the recording, ``total`` the recording's samples in whole hops;
        None when its end is not known yet.
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
        """Samples (T,), level-normalised -> logits as rows (F, N_VALUES + 1). See `ChunkedTrunk` for the rest."""
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

    def features(self, latents: Tensor, pitch: Tensor, direct: Tensor, start: int, total: int | None) -> Span:
        """Latents (C, F) and pitch codes (F,) -> the backbone's features, not yet normalised, that these determine.

        ``direct`` (F,) are the frames with the part without a source, ``start`` is the frame of the first latent,
        ``total`` the recording's frames; None while its end is unknown.
        """
        side = side_features(pitch[None], direct[None])[0]
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
