"""The codec's networks in PyTorch, their weights folded for inference on stretches (`audiovq.codec.chunked`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from audiovq.codec.chunked import ChunkedDecoder, ChunkedPitchTracker, ChunkedTrunk
from audiovq.codec.codebooks import Codebooks, Table
from audiovq.codec.shape import CodecShape
from audiovq.interfaces import Stretch
from audiovq.nn.precision import full_precision
from audiovq.quantize.split import SplitQuantizer
from audiovq.quantize.vector import VectorQuantizer

if TYPE_CHECKING:
    from audiovq.codec.networks import CodecNetworks


class TorchEngine:
    """An `audiovq.interfaces.Engine`; it keeps the weights as they are when it is made.

    Args:
        networks: of the codec, float32 and in evaluation mode, on any device.
    """

    def __init__(self, networks: CodecNetworks) -> None:
        assert networks.encoder.content is not None
        self._networks = networks
        self._hop = networks.hop_length
        self._device = next(networks.parameters()).device
        self._shape = shape_of(networks)
        self._content = ChunkedTrunk(networks.encoder.content)
        self._pitch = ChunkedPitchTracker(networks.pitch)
        # One speaker's after the other's: the vector is folded into the weights.
        self._detail: tuple[bytes, ChunkedTrunk] | None = None
        self._decoder: tuple[bytes, ChunkedDecoder] | None = None

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
        if self._detail is None or self._detail[0] != speaker.tobytes():
            self._detail = speaker.tobytes(), ChunkedTrunk(self._networks.encoder.detail, self._tensor(speaker))
        waveform, start, total = self._tensor(samples), stretch.start * self._hop, self._total(stretch)
        spans = self._content(waveform, start, total), self._detail[1](waveform, start, total, self._tensor(source))
        rows = [span.rows[stretch.first - span.start : stretch.last - span.start] for span in spans]
        return torch.cat(rows, dim=1).cpu().numpy().T

    @full_precision
    def gains(
        self, latents: np.ndarray, pitch: np.ndarray, speaker: np.ndarray, direct: bool, stretch: Stretch
    ) -> tuple[np.ndarray, np.ndarray | None]:
        decoder = self.decoder(speaker)
        inputs = self._tensor(latents), self._tensor(pitch)
        span = decoder.features(*inputs, stretch.start, stretch.total, direct)
        gains, without_source = decoder.project(span, self._shape.short_frames(stretch), direct)
        return gains.cpu().numpy(), None if without_source is None else without_source.cpu().numpy()

    def decoder(self, speaker: np.ndarray) -> ChunkedDecoder:
        """The decoder for a speaker vector (S,)."""
        if self._decoder is None or self._decoder[0] != speaker.tobytes():
            self._decoder = speaker.tobytes(), ChunkedDecoder(self._networks.decoder, self._tensor(speaker))
        return self._decoder[1]

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
