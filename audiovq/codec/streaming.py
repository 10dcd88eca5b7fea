"""Coding and decoding on one fixed grid of packets, whatever sizes the audio arrives in.

Encoding packet i needs some frames' worth of audio on either side, and the pitch of these frames, which is measured
first, on a grid of its own that runs ahead::

    audio    ......|....context....|======== packet i ========|....context....|..pitch context..|...
    pitch                          |                          |      known up to here           |
    codes                          |======== packet i ========|

Decoding emits what has its full context behind and ahead, so the grid of samples lags the grid of packets::

    codes    ...|context|== lag ==|======== packet i ========|
    samples             |======== piece i =======|  lag left for the next piece

Both grids depend only on positions in the recording, and each step runs alone with the same tensor shapes: the same
audio gives the same bits from a file, a pipe or a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.codec.concealment import Frames, bridge
from audiovq.codec.signal import (
    FALL_DB,
    LOWEST_DB,
    TARGET_DB,
    HarmonicSource,
    HighPass,
    Synthesizer,
    dequantize_level,
    hz_of,
    loudest_frame,
    quantize_level,
)
from audiovq.errors import AudioVQError
from audiovq.interfaces import CERTAINTY, UNVOICED, Packet, Stretch

if TYPE_CHECKING:
    from audiovq.codec.coding import StreamingCodec

LEVEL_RAMP = 80
"""Samples on either side of a packet's border over which the level goes from one packet's to the next one's."""


class Samples:
    """The recent part of a signal that arrives in pieces, addressed by position in the whole."""

    def __init__(self) -> None:
        self.start, self.end = 0, 0
        self._pieces: list[np.ndarray] = []

    def append(self, samples: np.ndarray) -> None:
        """Add samples at the end."""
        self._pieces.append(samples)
        self.end += len(samples)

    def read(self, first: int, last: int) -> np.ndarray:
        """Samples ``first`` to ``last``; zeros before the recording and where nothing has arrived."""
        self._pieces = [np.concatenate(self._pieces)] if self._pieces else [np.zeros(0, np.float32)]
        out = np.zeros(last - first, np.float32)
        low, high = max(first, self.start), min(last, self.end)
        if high > low:
            out[low - first : high - first] = self._pieces[0][low - self.start : high - self.start]
        return out

    def forget(self, until: int) -> None:
        """Drop samples before ``until``."""
        if self._pieces and until > self.start:
            joined = np.concatenate(self._pieces)
            drop = min(until - self.start, len(joined))
            self._pieces, self.start = [joined[drop:]], self.start + drop


class EncoderStream:
    """One channel of waveform in, packets out. See `SpeechCodec.encoder_stream`."""

    def __init__(
        self, codec: StreamingCodec, n_codebooks: int, packet_frames: int, speaker: np.ndarray | None = None
    ) -> None:
        self.codec, self.n_codebooks, self.packet_frames = codec, n_codebooks, packet_frames
        #: The quantized speaker vector (S,), known when the first packet is out.
        self.speaker: np.ndarray | None = speaker
        self._hop = codec.hop_length
        self._filter = HighPass(codec.sample_rate)
        self._samples, self._source = Samples(), Samples()
        self._oscillator = HarmonicSource(self._hop, codec.sample_rate)
        self._pitch: list[int] = []  # of frames from self._pitch_start on
        self._pitch_start = 0
        self._received = 0
        self._next = 0  # first frame of the next packet
        self._level = -math.inf
        self._engine, self._shape = codec.engine, codec.shape
        self._behind = self._shape.encoder_context  # frames behind a packet that the encoder is given

    @property
    def lookahead(self) -> int:
        """Samples behind a packet that coding it waits for; the first packet also waits for the speaker's stretch."""
        pitch = self._shape.detail_context + 1 + self._shape.pitch_context
        return max(self._shape.encoder_context, pitch) * self._hop

    def push(self, samples: np.ndarray) -> list[Packet]:
        """Samples (n,) float32 at the codec's rate -> the packets that are now complete.

        Raises:
            AudioVQError: for samples that are NaN or infinite.
        """
        samples = np.asarray(samples, np.float32).reshape(-1)
        if not np.isfinite(samples).all():
            where = (self._received + int(np.argmin(np.isfinite(samples)))) / self.codec.sample_rate
            raise AudioVQError(f"the audio has NaN or infinite samples, the first at {where:.3f} s; repair it first")
        self._samples.append(self._filter(samples))
        self._received += len(samples)
        packets: list[Packet] = []
        if self.speaker is None and self._received < self.codec.packet_frames * self._hop + self.lookahead:
            return packets
        while self._received >= (self._next + self.packet_frames) * self._hop + self.lookahead:
            packets.append(self._encode(self._next + self.packet_frames, None))
        return packets

    def finish(self) -> list[Packet]:
        """The packets that were waiting for audio behind them; the last may be shorter.

        Raises:
            AudioVQError: when no sample was given.
        """
        if self._received == 0:
            raise AudioVQError("the audio is empty: there is nothing to code")
        total = -(-self._received // self._hop)
        packets = []
        while self._next < total:
            packets.append(self._encode(min(self._next + self.packet_frames, total), total))
        return packets

    def _encode(self, end: int, total: int | None) -> Packet:
        """The packet of frames ``self._next`` to ``end``; ``total`` frames in all, None while more may come."""
        codec, hop, first = self.codec, self._hop, self._next
        if self.speaker is None:
            self.speaker = self._measure_speaker(total)
        stretch = self._stretch(end, total)
        source = self._source_of(stretch, total)
        window = self._samples.read(stretch.start * hop, stretch.stop * hop)
        self._level = max(self._loudest(window), self._level - FALL_DB * (end - first) / codec.frame_rate)
        window *= 10 ** ((TARGET_DB - self._level) / 20)
        latents = self._engine.latents(window, source, codec.speaker_vector(self.speaker), stretch)
        codes = codec.codebooks.encode(latents, self.n_codebooks)
        pitch = np.array(self._pitch[first - self._pitch_start : end - self._pitch_start], np.int64)
        self._next = end
        self._forget(max(end - self._shape.encoder_context, 0))
        return Packet(codes, pitch, quantize_level(self._level))

    def _stretch(self, end: int, total: int | None) -> Stretch:
        """The part that the encoder is given for frames ``self._next`` to ``end``."""
        return Stretch.around(self._next, end, self._shape.encoder_context, total)

    def _source_of(self, stretch: Stretch, total: int | None) -> np.ndarray:
        """The harmonic source of a stretch, as far as the wanted frames depend on it; zeros behind that."""
        # The detail trunk alone reads the source, which leads over to the pitch of the frame behind.
        tracked = stretch.last + self._shape.detail_context + 1
        self._track(tracked if total is None else min(tracked, total), total)
        return self._source.read(stretch.start * self._hop, stretch.stop * self._hop)

    def _measure_speaker(self, total: int | None) -> np.ndarray:
        """Speaker vector of the first ``codec.packet_frames`` frames, whatever the size of the packets."""
        end = self.codec.packet_frames
        behind = end + self._behind
        window = self._normalised(0, behind if total is None else min(behind, total))
        return self.codec.quantize_speaker(self._engine.speaker(window[: min(end * self._hop, self._received)]))

    def _loudest(self, window: np.ndarray) -> float:
        return max(loudest_frame(window, self._hop), LOWEST_DB)

    def _normalised(self, start: int, stop: int) -> np.ndarray:
        """Samples of frames ``start`` to ``stop``, brought to the level that the networks expect."""
        window = self._samples.read(start * self._hop, stop * self._hop)
        window *= 10 ** ((TARGET_DB - self._loudest(window)) / 20)
        return window

    def _track(self, until: int, total: int | None) -> None:
        """Measure pitch up to frame ``until``, and make the source as far as it is settled."""
        known = self._pitch_start + len(self._pitch)
        if until > known:
            stretch = Stretch.around(known, until, self._shape.pitch_context, total)
            window = self._normalised(stretch.start, stretch.stop)
            self._pitch += decide(self._engine.pitch(window, stretch)).tolist()
            known = until
        made = self._source.end // self._hop
        settled = known if known == total else known - 1  # the source of a frame leads over to the next one's pitch
        if settled > made:
            hz = hz_of(np.array(self._pitch[made - self._pitch_start :]))
            after = float(hz[settled - made]) if len(hz) > settled - made else 0.0
            self._source.append(self._oscillator.next(hz[: settled - made], after))

    def _forget(self, frame: int) -> None:
        """Drop what packets from ``frame`` on (their context included) do not need."""
        keep = min(frame, self._source.end // self._hop)
        self._source.forget(keep * self._hop)
        del self._pitch[: keep - self._pitch_start]
        self._pitch_start = max(self._pitch_start, keep)
        known = self._pitch_start + len(self._pitch)
        self._samples.forget(min(frame, max(known - self._shape.pitch_context, 0)) * self._hop)


def decide(logits: np.ndarray) -> np.ndarray:
    """Logits (F, N_VALUES + 1) -> pitch codes (F,) int64, see `audiovq.codec.encoder.decide`."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    unvoiced = odds[:, 0] > CERTAINTY * odds.sum(axis=1)
    return np.where(unvoiced, UNVOICED, logits[:, 1:].argmax(axis=1) + 1)


class DecoderStream:
    """Packets in, one channel of waveform out. See `SpeechCodec.decoder_stream`.

    Lost packets are concealed (`audiovq.codec.concealment`): frames that are still to be decoded when the next packet
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
        self._start = 0
        self._levels: list[tuple[int, float]] = []  # first frame of each packet or concealed frame, and its level
        self._n_codebooks = 0
        self._end = 0  # frames received
        self._emitted = 0  # frames decoded
        self._given = 0  # samples given out
        self._lost = 0  # frames at the end that are concealed
        self._last: Frames | None = None  # the last packet that arrived

    def push(self, packet: Packet | None, n_frames: int | None = None) -> np.ndarray:
        """The next packet, or None and its number of frames when it is lost -> samples that are ready.

        Raises:
            ValueError: for a lost packet without a number of frames.
        """
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
        left = n_samples - self._given
        return self._emit(self._end, True)[:left]

    def _append(self, packet: Packet) -> None:
        pitch, level = np.asarray(packet.pitch, np.int64), float(dequantize_level(packet.level))
        latents = self.codec.codebooks.decode(np.asarray(packet.codes, np.int64))
        frames = Frames(latents, pitch, np.full(len(pitch), level, np.float32))
        if self._lost:
            self._conceal(0, frames)
        self._n_codebooks, self._lost, self._last = len(packet.codes), 0, frames
        self._levels.append((self._end, level))
        self._add(frames)

    def _add(self, frames: Frames) -> None:
        self._latents = np.concatenate([self._latents, frames.latents], axis=1)
        self._pitch = np.concatenate([self._pitch, frames.pitch])
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
            filling = bridge(self._last, after, self._lost, self.codec.frame_rate)
        self._latents, self._pitch = self._latents[:, : known - self._start], self._pitch[: known - self._start]
        self._levels = [entry for entry in self._levels if entry[0] < known]
        self._levels += [(frame, float(filling.level[frame - begin])) for frame in range(known, end)]
        self._end = known
        self._add(filling[known - begin :])

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
        """Samples of the wanted frames, before the level is applied.

        Args:
            latents: (C, F) of the stretch.
            pitch: (F,) pitch codes of the stretch.
            source: (margin + samples of the wanted frames + margin,) harmonic source.
            stretch: the frames that are there and those that are wanted.
        """
        direct = self._n_codebooks >= self._shape.direct_from
        gains, without_source = self._engine.gains(latents, pitch, self._speaker, direct, stretch)
        frames = self._shape.short_frames(stretch)
        return self._synthesizer(gains, without_source, frames, stretch.first, stretch.last, source)

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
        self._latents, self._pitch = self._latents[:, keep - self._start :], self._pitch[keep - self._start :]
        self._start = keep
        self._source.forget(keep * self._hop)
        while len(self._levels) > 1 and self._levels[1][0] * self._hop + LEVEL_RAMP <= self._emitted * self._hop:
            del self._levels[0]


#: Codec, quantized speaker vector (S,) and seed -> a stream. Must pickle with the codec.
StreamFactory = Callable[[Any, np.ndarray, int], DecoderStream]
