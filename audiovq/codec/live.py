"""Streams with a bounded look-ahead, for live speech: they wait for less than the networks could make use of.

Behind the frames that a packet, or a piece of the output, may look at, the networks are given the end of the recording:
zeros in every layer, as behind the crops that they were trained on. What is computed then depends on positions in the
recording alone, as in `audiovq.codec.streaming`, but it is not what a whole recording gives.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from audiovq.codec.signal import hz_of
from audiovq.codec.streaming import DecoderStream, EncoderStream, decide
from audiovq.interfaces import Stretch

if TYPE_CHECKING:
    from audiovq.codec.coding import StreamingCodec


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


class LiveDecoderStream(DecoderStream):
    """A `DecoderStream` that decodes a frame when ``ahead`` frames behind it have arrived, two or more."""

    def __init__(self, codec: StreamingCodec, speaker: np.ndarray, ahead: int) -> None:
        super().__init__(codec, speaker)
        self._lag = ahead
        self._border: tuple[np.ndarray, np.ndarray | None] | None = None

    def _decode(self, latents: np.ndarray, pitch: np.ndarray, source: np.ndarray, stretch: Stretch) -> np.ndarray:
        shape = self._shape
        stretch = replace(stretch, total=stretch.stop)
        direct = self._n_codebooks >= shape.direct_from
        gains, without_source = self._engine.gains(latents, pitch, self._speaker, direct, stretch)
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
