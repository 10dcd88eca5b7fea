"""Decoding on one fixed grid of packets, and frames in the place of those that are lost.

The decoder emits what has its full context behind and ahead, so the grid of samples lags the grid of packets::

    codes    ...|context|== lag ==|======== packet i ========|
    samples             |======== piece i =======|  lag left for the next piece

In the place of lost packets is what `audiovq.codec.concealment.bridge` makes of their neighbours. The harmonic source
keeps its phase, since it runs through the gap on the filled pitch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.codec.concealment import CONTEXT, Frames, bridge
from audiovq.codec.encoder_stream import Samples
from audiovq.codec.signal import LOWEST_DB, SILENT_GAIN, TARGET_DB, HarmonicSource, Synthesizer, dequantize_level, hz_of
from audiovq.errors import AudioVQError
from audiovq.interfaces import Packet, Stretch

if TYPE_CHECKING:
    from audiovq.codec.coding import StreamingCodec

LEVEL_RAMP = 80
"""Samples on either side of a packet's border over which the level goes from one packet's to the next one's."""


class DecoderStream:
    """Packets in, one channel of waveform out. See `SpeechCodec.decoder_stream`.

    Lost packets are concealed (`bridge`): frames that are still to be decoded when the next packet
    arrives lead over to it, so a gap shorter than the decoder's context is always bridged from both sides.

    Args:
        codec: whose packets are decoded.
        speaker: (S,) quantized speaker vector.
        further: frames on either side, beyond the decoder's context, that `_decode` of a subclass needs.
    """

    def __init__(self, codec: StreamingCodec, speaker: np.ndarray, further: int = 0) -> None:
        self.codec, self._hop = codec, codec.hop_length
        self._engine, self._shape = codec.engine, codec.shape
        self._context = self._lag = self._shape.decoder_context + further
        self._speaker = codec.speaker_vector(speaker)
        self._synthesizer = Synthesizer(self._shape)
        self._margin = self._shape.margin + further * self._hop
        self._oscillator = HarmonicSource(self._hop, codec.sample_rate)
        self._source = Samples()
        self._latents = np.zeros((self._shape.latent_dim, 0), np.float32)  # from frame self._start on
        self._pitch = np.zeros(0, np.int64)
        self._is_filled = np.zeros(0, bool)  # whether they stand for lost ones
        self._start = 0
        self._levels: list[tuple[int, float]] = []  # first frame of each packet or concealed frame, and its level
        self._n_codebooks = 0
        self._end = 0  # frames received
        self._ended = False
        self._emitted = 0  # frames decoded
        self._given = 0  # samples given out
        self._lost = 0  # frames at the end that are concealed
        self._last: Frames | None = None  # the last packet that arrived

    def push(self, packet: Packet | None, n_frames: int | None = None) -> np.ndarray:
        """The next packet, or None and its number of frames when it is lost -> samples that are ready.

        Raises:
            ValueError: for a lost packet without a number of frames, and after `finish`.
        """
        if self._ended:
            raise ValueError("the stream has ended: each recording needs a new one")
        if packet is None:
            if n_frames is None:
                raise ValueError("a lost packet needs its number of frames")
            self._lost += n_frames
            self._conceal(n_frames, None)
        else:
            self._append(packet)
        return self._emit(self._end - self._lag, False)

    def finish(self, n_samples: int) -> np.ndarray:
        """The rest, so that all pieces together have exactly ``n_samples`` samples.

        Raises:
            AudioVQError: when the packets hold less than that.
        """
        if not (self._end - 1) * self._hop < n_samples <= self._end * self._hop:
            raise AudioVQError(f"{n_samples} samples do not fit {self._end} frames of {self._hop}: the file is damaged")
        self._ended, left = True, n_samples - self._given
        return self._emit(self._end, True)[:left]

    def _append(self, packet: Packet) -> None:
        pitch, level = np.asarray(packet.pitch, np.int64), float(dequantize_level(packet.level))
        latents = self.codec.codebooks.decode(np.asarray(packet.codes, np.int64))
        frames = Frames(latents, pitch, np.full(len(pitch), level, np.float32))
        self._n_codebooks = len(packet.codes)
        if self._lost:
            self._conceal(0, frames)
        self._lost, self._last = 0, frames
        self._levels.append((self._end, level))
        self._add(frames, False)

    def _add(self, frames: Frames, is_filled: bool) -> None:
        self._latents = np.concatenate([self._latents, frames.latents], axis=1)
        self._pitch = np.concatenate([self._pitch, frames.pitch])
        self._is_filled = np.concatenate([self._is_filled, np.full(len(frames.pitch), is_filled)])
        self._end += len(frames.pitch)

    def _conceal(self, n_more: int, after: Frames | None) -> None:
        """Fill the gap that ends ``n_more`` frames behind what is there, as far as it is not decoded yet."""
        begin, end = self._end + n_more - self._lost, self._end + n_more
        known = self._end if after is None else max(begin, self._emitted)  # frames before are as they are
        if self._last is None and after is None:
            channels, n = len(self._latents), self._lost
            quiet = np.full(n, LOWEST_DB, np.float32)
            filling = Frames(np.zeros((channels, n), np.float32), np.zeros(n, np.int64), quiet)
        else:
            before = self._before(begin)
            filling = bridge(before, after, self._lost, self.codec.frame_rate, self.codec.latent_predictor)
        self._keep(slice(known - self._start))
        self._levels = [entry for entry in self._levels if entry[0] < known]
        self._levels += [(frame, float(filling.level[frame - begin])) for frame in range(known, end)]
        self._end = known
        self._add(filling[known - begin :], True)

    def _before(self, begin: int) -> Frames | None:
        """The frames just before ``begin`` that have arrived, as many as count; None where there are none."""
        if self._last is None or begin <= self._start:
            return self._last
        low = max(begin - CONTEXT, self._start) - self._start
        filled = np.flatnonzero(self._is_filled[low : begin - self._start])
        part = slice(low if not len(filled) else low + filled[-1] + 1, begin - self._start)
        pitch = self._pitch[part]
        return Frames(self._latents[:, part], pitch, np.full(len(pitch), self._last.level[-1]))

    def _keep(self, part: slice) -> None:
        self._latents, self._pitch, self._is_filled = self._latents[:, part], self._pitch[part], self._is_filled[part]

    def _emit(self, until: int, ended: bool) -> np.ndarray:
        """Samples of the frames before ``until`` that have not been given out."""
        if until <= self._emitted:
            return np.zeros(0, np.float32)
        self._extend_source(until, ended)
        hop, margin, first = self._hop, self._margin, self._emitted
        stretch = Stretch.around(first, until, self._context, self._end)
        part = slice(stretch.start - self._start, stretch.stop - self._start)
        if not ended:
            stretch = replace(stretch, total=None)
        source = self._source.read(first * hop - margin, until * hop + margin)
        piece = self._decode(self._latents[:, part], self._pitch[part], source, stretch)
        samples = piece * self._gain(first * hop, until * hop)
        self._emitted = until
        self._forget()
        self._given += len(samples)
        return samples

    def _decode(self, latents: np.ndarray, pitch: np.ndarray, source: np.ndarray, stretch: Stretch) -> np.ndarray:
        """Samples of a stretch's wanted frames, before the level is applied, from its latents (C, F) and pitch (F,).

        ``source`` is the harmonic source (margin + samples of the wanted frames + margin,).
        """
        gains, without_source = self._gains(latents, pitch, stretch)
        frames = self._shape.short_frames(stretch)
        return self._synthesizer(gains, without_source, frames, stretch.first, stretch.last, source)

    def _gains(self, latents: np.ndarray, pitch: np.ndarray, stretch: Stretch) -> tuple[np.ndarray, np.ndarray | None]:
        """What `Engine.gains` gives; lost frames, whose phase cannot be known, have no part without a source."""
        is_filled = self._is_filled[stretch.start - self._start : stretch.stop - self._start]
        direct = ~is_filled & (self._n_codebooks >= self._shape.direct_from)
        gains, without_source = self._engine.gains(latents, pitch, self._speaker, direct, stretch)
        if without_source is not None and is_filled.any():
            frame = np.array(self._shape.short_frames(stretch)) // self._shape.rate - stretch.start
            log_gain = np.arange(without_source.shape[1]) < without_source.shape[1] // 3
            without_source = np.where(is_filled[frame][:, None] & log_gain, np.float32(SILENT_GAIN), without_source)
        return gains, without_source

    def _extend_source(self, until: int, ended: bool) -> None:
        """Make the source that frames before ``until`` need; pitch behind may still change where it is concealed."""
        made = self._source.end // self._hop
        settled = min(until - (-self._margin // self._hop), self._end if ended else self._end - 1)
        if settled > made:
            hz = hz_of(self._pitch[made - self._start : settled + 1 - self._start])
            after = float(hz[settled - made]) if settled < self._end else 0.0
            self._source.append(self._oscillator.next(hz[: settled - made], after))

    def _gain(self, first: int, last: int) -> np.ndarray:
        """Factor (n,) float32 for each sample: the packets' levels, with short ramps between them."""
        level = np.empty(last - first)
        borders = [frame * self._hop for frame, _ in self._levels] + [last + LEVEL_RAMP]
        for i, (_, value) in enumerate(self._levels):
            level[max(borders[i] - first, 0) : max(borders[i + 1] - first, 0)] = value
        for i in range(1, len(self._levels)):
            low, high = borders[i] - LEVEL_RAMP, borders[i] + LEVEL_RAMP
            ramp = np.linspace(self._levels[i - 1][1], self._levels[i][1], 2 * LEVEL_RAMP)
            a, b = max(low, first), min(high, last)
            if b > a:
                level[a - first : b - first] = ramp[a - low : b - low]
        return (10 ** ((level - TARGET_DB) / 20)).astype(np.float32)

    def _forget(self) -> None:
        """Drop what later frames do not need."""
        keep = max(self._emitted - self._context - 2, 0)
        self._keep(slice(keep - self._start, None))
        self._start = keep
        self._source.forget(keep * self._hop)
        while len(self._levels) > 1 and self._levels[1][0] * self._hop + LEVEL_RAMP <= self._emitted * self._hop:
            del self._levels[0]


#: Codec, quantized speaker vector (S,) and seed -> a stream. Must pickle with the codec.
StreamFactory = Callable[[Any, np.ndarray, int], DecoderStream]


class LiveDecoderStream(DecoderStream):
    """A `DecoderStream` that decodes a frame when ``ahead`` frames behind it have arrived, two or more."""

    def __init__(self, codec: StreamingCodec, speaker: np.ndarray, ahead: int) -> None:
        super().__init__(codec, speaker)
        self._lag = ahead
        self._border: tuple[np.ndarray, np.ndarray | None] | None = None

    def _decode(self, latents: np.ndarray, pitch: np.ndarray, source: np.ndarray, stretch: Stretch) -> np.ndarray:
        shape = self._shape
        stretch = replace(stretch, total=stretch.stop)
        gains, without_source = self._gains(latents, pitch, stretch)
        frames = shape.short_frames(stretch)
        # Short frames at a border shape the samples on both sides of it: with the same gains, so that they add up.
        if self._border is not None:
            old, old_direct = self._border
            gains = np.concatenate([old, gains[len(old) :]])
            if without_source is not None and old_direct is not None:
                without_source = np.concatenate([old_direct, without_source[len(old) :]])
        border = stretch.last * shape.rate - frames.start
        part = slice(border - shape.around, border + shape.overlap // 2)
        self._border = gains[part], None if without_source is None else without_source[part]
        return self._synthesizer(gains, without_source, frames, stretch.first, stretch.last, source)
