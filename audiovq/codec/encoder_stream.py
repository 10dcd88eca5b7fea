"""Coding on one fixed grid of packets, whatever sizes the audio arrives in.

Encoding packet i needs some frames' worth of audio on either side, and the pitch of these frames, which is measured
first, on a grid of its own that runs ahead::

    audio    ......|....context....|======== packet i ========|....context....|..pitch context..|...
    pitch                          |                          |      known up to here           |
    codes                          |======== packet i ========|

The grid depends only on positions in the recording, and each step runs alone with the same tensor shapes: the same
audio gives the same bits from a file, a pipe or a batch.

Live streams have a bounded look-ahead: they wait for less than the networks could make use of. Behind the frames that a
packet, or a piece of the output, may look at, the networks are given the end of the recording: zeros in every layer, as
behind the crops that they were trained on. What is computed then depends on positions in the recording alone, too, but
it is not what a whole recording gives.
"""

from __future__ import annotations

import math
from copy import copy
from typing import TYPE_CHECKING

import numpy as np

from audiovq.codec.signal import (
    FALL_DB,
    LOWEST_DB,
    TARGET_DB,
    HarmonicSource,
    HighPass,
    hz_of,
    loudest_frame,
    quantize_level,
)
from audiovq.errors import AudioVQError
from audiovq.interfaces import CERTAINTY, UNVOICED, Packet, Stretch

if TYPE_CHECKING:
    from audiovq.codec.coding import StreamingCodec


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
        self._received, self._ended = 0, False
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
            ValueError: after `finish`.
        """
        if self._ended:
            raise ValueError("the stream has ended: each recording needs a new one")
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
        self._ended, total = True, -(-self._received // self._hop)
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


class LiveEncoderStream(EncoderStream):
    """An `EncoderStream` that codes a packet when ``ahead`` frames behind it have arrived.

    The pitch of these frames is measured for the harmonic source alone, and again for the packet that they are in.
    """

    def __init__(
        self,
        codec: StreamingCodec,
        n_codebooks: int,
        packet_frames: int,
        speaker: np.ndarray | None,
        ahead: int,
    ) -> None:
        super().__init__(codec, n_codebooks, packet_frames, speaker)
        self._behind = ahead

    @property
    def lookahead(self) -> int:
        """Samples behind a packet that coding it waits for; the first packet also waits for the speaker's stretch."""
        return self._behind * self._hop

    def _stretch(self, end: int, total: int | None) -> Stretch:
        stop = end + self._behind if total is None else min(end + self._behind, total)
        return Stretch(max(self._next - self._shape.encoder_context, 0), stop, self._next, end, stop)

    def _source_of(self, stretch: Stretch, total: int | None) -> np.ndarray:
        first, end, stop = stretch.first, stretch.last, stretch.stop
        around = Stretch(max(first - self._shape.pitch_context, 0), stop, first, stop, stop)
        found = decide(self._engine.pitch(self._normalised(around.start, stop), around))
        made = self._source.end // self._hop
        hz = hz_of(np.concatenate([self._pitch[made - self._pitch_start :], found]).astype(np.int64))
        self._pitch += found[: end - first].tolist()
        settled = (end if end == total else end - 1) - made
        after = float(hz[settled]) if len(hz) > settled else 0.0
        self._source.append(self._oscillator.next(hz[:settled], after))
        known = self._source.read(stretch.start * self._hop, (made + settled) * self._hop)
        return np.concatenate([known, copy(self._oscillator).next(hz[settled:], 0.0)])
