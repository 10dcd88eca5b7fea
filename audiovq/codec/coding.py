"""What a speech codec is apart from its networks, with any engine: codebooks as tables, and streams (NumPy alone)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from audiovq.codec.concealment import LatentPredictor
from audiovq.codec.decoder_stream import DecoderStream, LiveDecoderStream, StreamFactory
from audiovq.codec.encoder_stream import EncoderStream, LiveEncoderStream
from audiovq.codec.signal import LOWEST_DB, TARGET_DB, HighPass, loudest_frame
from audiovq.errors import AudioVQError
from audiovq.hub import missing_decoder
from audiovq.interfaces import PITCH_AND_LEVEL_KBPS, CodecShape, Engine


@dataclass(frozen=True)
class Table:
    """One codebook."""

    search: np.ndarray  # (K, D) its vectors in the space in which the nearest is chosen
    values: np.ndarray  # (K, C) the latents that they stand for
    costs: np.ndarray | None = None  # (K,) added to the squared distance to each
    weight: np.ndarray | None = None  # (D, C) and (D,): map from latents to another space of ``search``
    bias: np.ndarray | None = None
    normalised: bool = False  # whether latents are scaled to the unit sphere before the search

    def nearest(self, rows: np.ndarray) -> np.ndarray:
        """Codes (F,) int64 of latents (F, C); of equal distances the lowest code."""
        if self.weight is not None:
            rows = rows @ self.weight.T + self.bias
        if self.normalised:
            rows = rows / np.maximum(np.sqrt(np.square(rows).sum(axis=1, keepdims=True)), 1e-12)
        return (rows @ self.search.T - self._half).argmax(axis=1)  # argmin |x - e|^2 = argmax e.x - |e|^2 / 2

    @cached_property
    def _half(self) -> np.ndarray:
        """Half of what each code costs apart from its product with the latent."""
        squared = np.square(self.search).sum(axis=1)
        return (squared if self.costs is None else squared + self.costs) / 2


class Codebooks:
    """The content codebook and the residual detail codebooks of a model, see `SplitQuantizer`.

    Args:
        content: of the first channels of the latents.
        detail: of the others, coarse to fine.
        predict: (detail channels, content channels), the linear prediction that is taken off the detail latents.
    """

    def __init__(self, content: Table, detail: Sequence[Table], predict: np.ndarray) -> None:
        self.content, self.detail, self.predict = content, list(detail), predict
        self.size = len(content.search)

    def __len__(self) -> int:
        return 1 + len(self.detail)

    def encode(self, latents: np.ndarray, n_codebooks: int) -> np.ndarray:
        """Latents (C, F) float32 -> codes (n_codebooks, F) int64."""
        rows, width = latents.T, self.content.values.shape[1]
        codes = [self.content.nearest(np.ascontiguousarray(rows[:, :width]))]
        if n_codebooks > 1:
            residual = rows[:, width:] - self.content.values[codes[0]] @ self.predict.T
            value = np.zeros_like(residual)
            for table in self.detail[: n_codebooks - 1]:
                codes.append(table.nearest(residual - value))
                value += table.values[codes[-1]]
        return np.stack(codes)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes (K, F) -> latents (C, F) float32. Raises `AudioVQError` for codes that the model does not have."""
        if not 1 <= len(codes) <= len(self) or codes.min(initial=0) < 0 or codes.max(initial=0) >= self.size:
            raise AudioVQError(f"codes must be of 1 to {len(self)} codebooks, from 0 to {self.size - 1}")
        detail = np.zeros((codes.shape[1], len(self.predict)), np.float32)
        for table, chosen in zip(self.detail, codes[1:], strict=False):
            detail += table.values[chosen]
        return np.concatenate([self.content.values[codes[0]], detail], axis=1).T


class StreamingCodec:
    """Coding and decoding channels while they arrive: an `audiovq.interfaces.Codec`.

    Subclasses set the attributes, also the engine, the sizes of its networks and the quantizer's tables. ``seed`` is
    for what decoders sample where no other is given; ``model_hash`` is zero, and ``folder`` None, for a model that was
    not loaded.
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
    model_hash = b"\0\0\0\0"
    folder: Path | None = None
    engine: Engine
    shape: CodecShape
    codebooks: Codebooks
    _decoders: dict[str, StreamFactory]

    @cached_property
    def latent_predictor(self) -> LatentPredictor | None:
        """What conceals lost packets, where the model's folder has it; `AudioVQError` for a damaged file."""
        return None if self.folder is None else LatentPredictor.load(self.folder, self.model_hash)

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
        if not isinstance(n, int | np.integer) or not 1 <= n <= self.n_codebooks:
            raise AudioVQError(f"model {self.name} has 1 to {self.n_codebooks} codebooks, not {n}")
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
        self,
        n_codebooks: int | None = None,
        packet_frames: int | None = None,
        speaker: np.ndarray | None = None,
        lookahead: int | None = None,
    ) -> EncoderStream:
        """Code one channel while it arrives.

        Args:
            n_codebooks: how many codebooks to use; None: the model's default.
            packet_frames: frames of a packet: short ones lose less to a bad line, and cost more bits and time; None:
                the model's default.
            speaker: the quantized speaker vector (S,), where it is known beforehand. Without it the first packet waits
                for ``self.packet_frames`` frames, from which the vector is computed.
            lookahead: frames behind a packet that it may depend on, for live speech; None: all that the networks look
                ahead. Fewer give other codes, see `audiovq.codec.encoder_stream`.

        Raises:
            AudioVQError: for a number of codebooks or of frames that the model does not have, and weights that are not
                float32.
        """
        n_codebooks, packet_frames = self.check_n_codebooks(n_codebooks), self.check_packet_frames(packet_frames)
        stream = EncoderStream(self, n_codebooks, packet_frames, speaker)
        if lookahead is None or lookahead * self.hop_length >= stream.lookahead:
            return stream
        if lookahead < 0:
            raise AudioVQError(f"the look-ahead of an encoder is 0 frames or more, not {lookahead}")
        return LiveEncoderStream(self, n_codebooks, packet_frames, speaker, lookahead)

    @property
    def decoders(self) -> list[str]:
        """Names of the decoders that the model has."""
        return list(self._decoders)

    def decoder_stream(
        self,
        speaker: np.ndarray,
        decoder: str = "parallel",
        seed: int | None = None,
        *,
        lookahead: int | None = None,
    ) -> DecoderStream:
        """Decode one channel while its packets arrive.

        Args:
            speaker: (S,) quantized speaker vector.
            decoder: one of the model's decoders.
            seed: of what the decoder samples; None: the codec's ``seed``.
            lookahead: frames behind a sample that it may depend on, for live speech and the decoder ``parallel``;
                None: all that the network looks ahead. Fewer give other samples, see `audiovq.codec.encoder_stream`.

        Raises:
            AudioVQError: for a decoder that the model does not have, a look-ahead that it cannot have, and weights that
                are not float32.
        """
        if decoder not in self._decoders:
            raise missing_decoder(self.name, decoder, self.decoders)
        if lookahead is not None:
            if decoder != "parallel":
                raise AudioVQError(f"the look-ahead of the decoder {decoder} cannot be chosen, only that of parallel")
            if lookahead < (least := self.shape.least_lookahead):
                raise AudioVQError(f"the look-ahead of a decoder is {least} frames or more, not {lookahead}")
            if lookahead < self.shape.decoder_context:
                return LiveDecoderStream(self, speaker, lookahead)
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
