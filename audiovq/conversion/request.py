"""A conversion request: the target's speaker vector, pitch and spectrum, applied while audio or packets pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from audiovq.conversion.activity import doubts
from audiovq.conversion.pitch import Pitch, PitchMover
from audiovq.conversion.psola import OPENING_SECONDS, Shifter
from audiovq.conversion.spectral_match import MatchedStream, Timbre, check_timbre
from audiovq.conversion.target import TargetVoice

if TYPE_CHECKING:
    from audiovq.interfaces import Codec, DecoderStream, EncoderStream, Packet


@dataclass
class Disguise:
    """Another voice for a recording.

    Attributes:
        vector: the quantized speaker vector (S,) it gets.
        shift: moves its pitch before it is coded, or None.
        spectrum: the long-term average spectrum that what is decoded gets, or None.
        mover: moves coded pitch, for a model that has it, or None.
        source: the quantized speaker vector (S,) of the source, where it is known beforehand.
        remarks: what was noticed on the way.
    """

    vector: np.ndarray
    shift: Shifter | None = None
    spectrum: np.ndarray | None = None
    mover: PitchMover | None = None
    source: np.ndarray | None = None
    remarks: list[str] = field(default_factory=list)
    _opening: list[np.ndarray] = field(default_factory=list)
    _n_heard: int = 0

    def encoder_stream(self, codec: Codec, n_codebooks: int | None, packet_frames: int | None) -> EncoderStream:
        """Codes one channel of the source, see `SpeechCodec.encoder_stream`."""
        if self.source is None:
            return codec.encoder_stream(n_codebooks, packet_frames)
        return codec.encoder_stream(n_codebooks, packet_frames, self.source)

    def decoder_stream(self, codec: Codec, decoder: str = "parallel") -> DecoderStream | MatchedStream:
        """Decodes one channel in this voice, see `SpeechCodec.decoder_stream`."""
        stream = codec.decoder_stream(self.vector, decoder)
        return stream if self.spectrum is None else MatchedStream(stream, self.spectrum, codec.sample_rate)

    def move(self, packets: Iterable[Sequence[Packet]], ended: bool = False) -> list[Sequence[Packet]]:
        """Rows of a packet for each channel -> those that are ready, their pitch moved; ``ended``: none follow."""
        if self.mover is None:
            return list(packets)
        moved = [row for packet in packets for row in self.mover.push(packet)]
        return [*moved, *self.mover.finish()] if ended else list(moved)

    def push(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """A block (n, channels) of the source -> what is to be coded, (m, channels)."""
        wanted = round(OPENING_SECONDS * sample_rate) - self._n_heard
        if wanted > 0:
            self._opening.append(samples[:wanted].mean(axis=1))
            self._n_heard += len(self._opening[-1])
        return samples if self.shift is None else self.shift.push(samples)

    def finish(self, sample_rate: int) -> np.ndarray | None:
        """What is left to be coded; the opening is looked at now."""
        if self._opening and (why := doubts(np.concatenate(self._opening), sample_rate)):
            self.remarks.append(f"warning: it has {why}; conversion is made for one clear voice")
        self._opening = []
        return None if self.shift is None else self.shift.finish()


def make_disguise(
    voice: TargetVoice,
    codec: Codec,
    pitch: Pitch = "auto",
    timbre: Timbre = "auto",
    source: TargetVoice | None = None,
) -> Disguise:
    """The target's vector with what goes with it, as asked; see `SpeechCodec.convert`. For one source.

    A model with coded pitch has it moved in its packets; what is decoded keeps its spectrum then. ``source`` is the
    voice of the source, where it is known beforehand: nothing waits until it is measured then.

    Raises:
        AudioVQError: when there is too little speech of the target.
    """
    check_timbre(timbre)
    if codec.has_pitch:
        mover = PitchMover(pitch, voice.pitch, None if source is None else source.pitch)
        return Disguise(voice.vector(), mover=mover, source=None if source is None else source.vector())
    spectrum = voice.spectrum if timbre == "auto" else None
    return Disguise(voice.vector(), make_shifter(codec.sample_rate, pitch, voice.pitch), spectrum)


def make_shifter(sample_rate: int, pitch: Pitch, target_hz: float | None) -> Shifter | None:
    """What moves the pitch as asked; None where nothing is to move, or the target's register is not known."""
    if pitch == "keep" or (pitch == "auto" and target_hz is None):
        return None
    return Shifter(sample_rate, None if pitch == "auto" else float(pitch), target_hz)
