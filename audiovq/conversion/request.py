"""A conversion request: the target's speaker vector and pitch, applied while audio and packets pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from audiovq.conversion.activity import doubts
from audiovq.conversion.pitch import Pitch, PitchMover
from audiovq.conversion.target import TargetVoice

if TYPE_CHECKING:
    from audiovq.interfaces import Codec, DecoderStream, EncoderStream, Packet

OPENING_SECONDS = 10.0
"""Beginning of a source that is examined for noise, music and several speakers."""


@dataclass
class Conversion:
    """Conversion of one source to another speaker.

    Attributes:
        vector: the quantized speaker vector (S,) of the target.
        mover: moves the coded pitch.
        source: the quantized speaker vector (S,) of the source, where it is known beforehand.
    """

    vector: np.ndarray
    mover: PitchMover
    source: np.ndarray | None = None
    _opening: list[np.ndarray] = field(default_factory=list)
    _n_opening: int = 0
    _sample_rate: int = 16000

    def encoder_stream(self, codec: Codec, n_codebooks: int | None, packet_frames: int | None) -> EncoderStream:
        """Code one channel of the source, see `SpeechCodec.encoder_stream`."""
        return codec.encoder_stream(n_codebooks, packet_frames, self.source)

    def decoder_stream(self, codec: Codec, decoder: str = "parallel") -> DecoderStream:
        """Decode one channel with the target's speaker vector, see `SpeechCodec.decoder_stream`."""
        return codec.decoder_stream(self.vector, decoder)

    def move(self, packets: Iterable[Sequence[Packet]], ended: bool = False) -> list[Sequence[Packet]]:
        """Rows of a packet for each channel -> those that are ready, their pitch moved; ``ended``: none follow."""
        moved: list[Sequence[Packet]] = [row for packet in packets for row in self.mover.push(packet)]
        return [*moved, *self.mover.finish()] if ended else moved

    def observe(self, samples: np.ndarray, sample_rate: int) -> None:
        """Keep the opening of the source, block (n, channels) by block, for `remarks`."""
        self._sample_rate = sample_rate
        wanted = round(OPENING_SECONDS * sample_rate) - self._n_opening
        if wanted > 0:
            self._opening.append(samples[:wanted].mean(axis=1))
            self._n_opening += len(self._opening[-1])

    def remarks(self) -> list[str]:
        """Warnings about the source."""
        if self._opening and (why := doubts(np.concatenate(self._opening), self._sample_rate)):
            return [f"warning: it has {why}; conversion is made for one clear voice"]
        return []


def make_conversion(voice: TargetVoice, pitch: Pitch = "auto", source: TargetVoice | None = None) -> Conversion:
    """A conversion of one source to ``voice``, its pitch moved as asked; see `SpeechCodec.convert`.

    ``source`` is the voice of the source, where it is known beforehand: nothing then waits until it is measured.

    Raises:
        AudioVQError: when there is too little speech of the target.
    """
    if source is None:
        return Conversion(voice.vector(), PitchMover(pitch, voice.pitch))
    return Conversion(voice.vector(), PitchMover(pitch, voice.pitch, source.pitch), source.vector())
