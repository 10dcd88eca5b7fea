"""A speech codec's streams on top of any engine: what `SpeechCodec` and `OnnxCodec` share (NumPy alone)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from audiovq.codec.codebooks import Codebooks
from audiovq.codec.level import LOWEST_DB, TARGET_DB, HighPass, loudest_frame
from audiovq.codec.shape import CodecShape
from audiovq.codec.streaming import DecoderStream, EncoderStream, StreamFactory
from audiovq.errors import AudioVQError
from audiovq.interfaces import PITCH_AND_LEVEL_KBPS, Engine


class StreamingCodec:
    """Coding and decoding channels while they arrive. Subclasses set the attributes and bring the engine.

    Attributes:
        name: the model's name, for messages.
        sample_rate, hop_length, frame_rate: Hz, samples of a frame, frames a second.
        packet_frames: frames of a packet, when nothing is asked for; the most that can be asked for.
        n_codebooks, codebook_size: of codes.
        default_n_codebooks, conversion_codebooks: what `encode` and `convert` use when nothing is asked for.
        seed: of what decoders sample where no other seed is given.
        has_pitch: whether files carry pitch and level beside the codes.
        has_speaker_table: whether speakers are numbers rather than vectors made from speech.
        model_hash: see `audiovq.hub.codes_hash`; files carry it. Zero for a model that was not loaded.
        folder: where it was loaded from: bundled voices lie beside the weights.
    """

    name: str
    sample_rate: int
    hop_length: int
    frame_rate: float
    packet_frames: int
    n_codebooks: int
    codebook_size: int
    default_n_codebooks: int
    conversion_codebooks: int
    seed = 0
    has_pitch = True
    has_speaker_table = False
    model_hash = b"\0\0\0\0"
    folder: Path | None = None
    _decoders: dict[str, StreamFactory]

    @property
    def engine(self) -> Engine:
        """Computes the networks."""
        raise NotImplementedError

    @property
    def shape(self) -> CodecShape:
        """Sizes of the networks."""
        raise NotImplementedError

    @property
    def codebooks(self) -> Codebooks:
        """The quantizer's tables."""
        raise NotImplementedError

    @property
    def bitrates(self) -> list[float]:
        """Nominal kb/s by the number of codebooks, pitch and level included, ascending."""
        bits = (self.codebook_size - 1).bit_length()
        per_codebook = bits * self.frame_rate / 1000
        return [PITCH_AND_LEVEL_KBPS + k * per_codebook for k in range(1, self.n_codebooks + 1)]

    @property
    def n_speaker_levels(self) -> int:
        """Values that an entry of a quantized speaker vector can have."""
        return self.shape.speaker_levels

    @property
    def speaker_bits(self) -> int:
        """Bits of one value of a quantized speaker vector."""
        return (self.n_speaker_levels - 1).bit_length()

    def check_n_codebooks(self, n_codebooks: int | None) -> int:
        """The number itself, or the default for None.

        Raises:
            AudioVQError: when the model has no such number of codebooks.
        """
        n = self.default_n_codebooks if n_codebooks is None else n_codebooks
        if not 1 <= n <= self.n_codebooks:
            raise AudioVQError(f"model {self.name} has 1 to {self.n_codebooks} codebooks, {n} were asked for")
        return n

    def check_packet_frames(self, packet_frames: int | None) -> int:
        """The number itself, or the model's for None.

        Raises:
            AudioVQError: for less than a frame, and for more than the model's.
        """
        n = self.packet_frames if packet_frames is None else packet_frames
        if not 1 <= n <= self.packet_frames:
            raise AudioVQError(f"model {self.name} has packets of 1 to {self.packet_frames} frames, not of {n}")
        return n

    def encoder_stream(
        self, n_codebooks: int | None = None, packet_frames: int | None = None, speaker: np.ndarray | None = None
    ) -> EncoderStream:
        """Code one channel while it arrives.

        Args:
            n_codebooks: how many codebooks to use; None: the model's default.
            packet_frames: frames of a packet: short ones lose less to a bad line, and cost more bits and time; None:
                the model's default.
            speaker: the quantized speaker vector (S,), where it is known beforehand. Without it the first packet waits
                for ``self.packet_frames`` frames, from which the vector is computed.

        Raises:
            AudioVQError: for a number of codebooks or of frames that the model does not have, and weights that are not
                float32.
        """
        n_codebooks, packet_frames = self.check_n_codebooks(n_codebooks), self.check_packet_frames(packet_frames)
        return EncoderStream(self, n_codebooks, packet_frames, speaker)

    @property
    def decoders(self) -> list[str]:
        """Names of the decoders that the model has."""
        return list(self._decoders)

    def decoder_stream(self, speaker: np.ndarray, decoder: str = "parallel", seed: int | None = None) -> DecoderStream:
        """Decode one channel while its packets arrive.

        Args:
            speaker: (S,) quantized speaker vector.
            decoder: one of the model's decoders.
            seed: of what the decoder samples; None: the codec's ``seed``.

        Raises:
            AudioVQError: for a decoder that the model does not have, and weights that are not float32.
        """
        if decoder not in self._decoders:
            raise AudioVQError(f"model {self.name} has no decoder {decoder!r}; it has: {', '.join(self._decoders)}")
        return self._decoders[decoder](self, speaker, self.seed if seed is None else seed)

    # -- speaker vectors ----------------------------------------------------------------------------------------------

    def speaker_levels(self, samples: np.ndarray) -> np.ndarray:
        """A stretch (T,) of speech -> the speaker vector before rounding (S,) float64: these can be averaged."""
        samples = HighPass(self.sample_rate)(samples)
        loudest = loudest_frame(samples, self.hop_length) if len(samples) >= self.hop_length else TARGET_DB
        samples *= 10 ** ((TARGET_DB - max(loudest, LOWEST_DB)) / 20)
        return self.engine.speaker(samples).astype(np.float64)

    def quantize_speaker(self, levels: np.ndarray) -> np.ndarray:
        """A speaker vector before rounding (S,) -> the quantized one (S,) int64."""
        middle = self.n_speaker_levels // 2
        return (np.rint(levels - middle) + middle).astype(np.int64)

    def speaker_vector(self, quantized: np.ndarray) -> np.ndarray:
        """A quantized speaker vector (S,) -> what the networks are given (S,) float32."""
        middle = np.float32(self.n_speaker_levels // 2)
        return (np.asarray(quantized, np.float32) - middle) / middle


def parallel_stream(codec: StreamingCodec, speaker: np.ndarray, seed: int) -> DecoderStream:
    """The stream of the decoder that every model has."""
    return DecoderStream(codec, speaker)
