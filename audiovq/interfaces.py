"""Types and protocols that several rooms of the package share, and the scale of coded pitch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    from torch import Tensor


UNVOICED = 0
"""Pitch code of a frame without a fundamental."""
LOWEST_HZ = 50.0
"""Fundamental of pitch code 1."""
STEPS_PER_OCTAVE = 48
"""A step is a quarter of a semitone."""
N_VALUES = 176
"""Voiced pitch codes: 50 to 626 Hz."""
CERTAINTY = 0.85
"""Probability from which on a frame is coded as unvoiced: a decoder can turn harmonics down, but not make any."""
PITCH_AND_LEVEL_KBPS = 0.15
"""Nominal rate of coded pitch and level together, kb/s."""

#: Called now and then with how much is done and how much there is in all (None: not known), in any one unit.
Progress = Callable[[float, float | None], None]


@dataclass(frozen=True)
class Packet:
    """A stretch of one channel after coding.

    Attributes:
        codes: (K, F) int64.
        pitch: (F,) int64 pitch codes, see `audiovq.codec.encoder`.
        level: level code, see `audiovq.codec.signal`.
    """

    codes: np.ndarray
    pitch: np.ndarray
    level: int

    @property
    def n_frames(self) -> int:
        """Frames F."""
        return self.codes.shape[1]

    def first(self, n_codebooks: int | None) -> Packet:
        """The same with at most ``n_codebooks`` codebooks; None keeps all."""
        return Packet(self.codes[:n_codebooks], self.pitch, self.level)


@dataclass(frozen=True)
class CodedChannel:
    """One channel of coded speech in arrays, as streams give and take it; `EncodedSpeech` is a batch in tensors.

    Attributes:
        packets: all of them, in order.
        speaker: (S,) int64, the quantized speaker vector.
        n_samples: at the codec's rate.
        packet_frames: frames of a packet; the last may be shorter.
    """

    packets: list[Packet]
    speaker: np.ndarray
    n_samples: int
    packet_frames: int


@dataclass
class EncodedSpeech:
    """Coded speech: what is said, on which pitch, how loud, and who says it. Arrays and numbers become tensors.

    Attributes:
        codes: (B, K, F) int64, coarse to fine; frames beyond an item's end are zero.
        speaker: (B, S) int64, the quantized speaker vector.
        n_samples: (B,) int64, samples of each item at the codec's rate.
        pitch: (B, F) int64 pitch codes, 0 where unvoiced (`audiovq.codec.encoder`).
        level: (B, P) int64 level codes, one for each packet (`audiovq.codec.signal`).
        packet_frames: frames of a packet; None: the codec's default.
    """

    codes: Tensor
    speaker: Tensor
    n_samples: Tensor
    pitch: Tensor
    level: Tensor
    packet_frames: int | None = None

    def __post_init__(self) -> None:
        import torch

        for name in ("codes", "speaker", "n_samples", "pitch", "level"):
            value = getattr(self, name)
            if not isinstance(value, torch.Tensor):
                value = torch.from_numpy(np.array(value, np.int64))
            setattr(self, name, value.reshape(-1) if name == "n_samples" else value)

    @classmethod
    def of(cls, channels: Sequence[CodedChannel]) -> EncodedSpeech:
        """Channels with packets of equal length as a batch."""

        def joined(rows: list[np.ndarray]) -> np.ndarray:
            longest = max(row.shape[-1] for row in rows)
            return np.stack([np.pad(row, [(0, 0)] * (row.ndim - 1) + [(0, longest - row.shape[-1])]) for row in rows])

        parts: dict[str, Any] = {
            "codes": joined([np.concatenate([packet.codes for packet in one.packets], axis=1) for one in channels]),
            "pitch": joined([np.concatenate([packet.pitch for packet in one.packets]) for one in channels]),
            "level": joined([np.array([packet.level for packet in one.packets]) for one in channels]),
            "speaker": np.stack([one.speaker for one in channels]),
            "n_samples": [one.n_samples for one in channels],
        }
        return cls(**parts, packet_frames=channels[0].packet_frames)

    def channel(self, index: int, codec: Codec) -> CodedChannel:
        """One item of a batch for a stream.

        Raises:
            AudioVQError: for a number of samples that does not fit the codes.
        """
        tensors = (self.codes, self.pitch, self.level, self.speaker)
        codes, pitch, level, speaker = (tensor[index].cpu().numpy() for tensor in tensors)
        n_samples, size = int(self.n_samples[index]), self.packet_frames or codec.packet_frames
        n_frames = -(-n_samples // codec.hop_length)
        if not 1 <= n_frames <= codes.shape[-1]:
            raise AudioVQError(f"{n_samples} samples do not fit {codes.shape[-1]} frames of codes")
        parts = [slice(start, min(start + size, n_frames)) for start in range(0, n_frames, size)]
        packets = [Packet(codes[:, part], pitch[part], int(level[i])) for i, part in enumerate(parts)]
        return CodedChannel(packets, speaker, n_samples, size)

    def __repr__(self) -> str:
        shapes = (f"{name} {tuple(getattr(self, name).shape)}" for name in ("codes", "pitch", "level", "speaker"))
        return f"EncodedSpeech({', '.join(shapes)}, n_samples {self.n_samples.tolist()})"

    def item(self, index: int) -> EncodedSpeech:
        """One item of the batch, as a batch of one."""
        tensors = (self.codes, self.speaker, self.n_samples, self.pitch, self.level)
        codes, speaker, n_samples, pitch, level = (tensor[index : index + 1] for tensor in tensors)
        return EncodedSpeech(codes, speaker, n_samples, pitch, level, self.packet_frames)


@dataclass(frozen=True)
class Stretch:
    """A part of a recording that a network is given, in frames.

    Attributes:
        start, stop: the part: the wanted frames and their context, as far as the recording has it.
        first, last: the frames that are wanted.
        total: frames of the recording; None when its end is not known yet.
    """

    start: int
    stop: int
    first: int
    last: int
    total: int | None = None

    @classmethod
    def around(cls, first: int, last: int, context: int, total: int | None = None) -> Stretch:
        """Frames ``first`` to ``last`` with ``context`` frames on either side."""
        stop = last + context if total is None else min(last + context, total)
        return cls(max(first - context, 0), stop, first, last, total)

    @property
    def wanted(self) -> slice:
        """The wanted frames within the part."""
        return slice(self.first - self.start, self.last - self.start)


@dataclass(frozen=True)
class CodecShape:
    """Sizes of a codec's networks.

    Attributes:
        sample_rate: Hz.
        hop_length: samples of a frame.
        latent_dim: channels of the latents.
        encoder_context, detail_context, pitch_context, decoder_context: frames on either side that one frame of the
            encoder (of its detail trunk alone), of the pitch tracker and of the decoder may depend on.
        step: samples between the decoder's short frames.
        overlap: short frames that cover one sample.
        direct_from: fewest codebooks of speech that gets the part without a source.
        speaker_dim, speaker_levels: values of a quantized speaker vector, and of how many levels each is.
    """

    sample_rate: int
    hop_length: int
    latent_dim: int
    encoder_context: int
    detail_context: int
    pitch_context: int
    decoder_context: int
    step: int
    overlap: int
    direct_from: int
    speaker_dim: int
    speaker_levels: int

    @property
    def rate(self) -> int:
        """Short frames of a frame."""
        return self.hop_length // self.step

    @property
    def n_fft(self) -> int:
        """Samples of a short frame."""
        return self.step * self.overlap

    @property
    def trim(self) -> int:
        """Samples by which a short frame reaches beyond its step on either side."""
        return (self.n_fft - self.step) // 2

    @property
    def around(self) -> int:
        """Short frames needed on either side of those that are wanted."""
        return self.overlap // 2 + 1

    @property
    def margin(self) -> int:
        """Samples of the source needed before and after those that are decoded."""
        return self.around * self.step + self.trim

    @property
    def least_lookahead(self) -> int:
        """Frames behind a sample that have to be known to shape its sources and add them up."""
        reach = self.overlap // 2 * self.step + self.trim  # of the last short frame that covers the sample
        return -(-reach // self.hop_length) + 1  # the source of a frame leads over to the pitch of the next one

    def short_frames(self, stretch: Stretch) -> range:
        """The short frames that cover the wanted frames; there are none before the recording or behind it."""
        low, high = stretch.first * self.rate - self.around, stretch.last * self.rate + self.around
        return range(max(low, 0), high if stretch.total is None else min(high, stretch.total * self.rate))


class Engine(Protocol):
    """The networks of a speech codec, computed for one stretch of one channel at a time. All arrays are NumPy's.

    Signals are level-normalised float32 at the codec's rate; they begin with frame ``stretch.start`` and end with
    ``stretch.stop``. Results are float32 and do not depend on what is beyond the stretch: it holds the context that the
    network needs. Grids of packets, levels, quantizers, sources, overlap-add and files know of no engine.
    """

    def speaker(self, samples: np.ndarray) -> np.ndarray:
        """A stretch of speech (T,) of any length -> the speaker vector before rounding (S,), in levels."""

    def pitch(self, samples: np.ndarray, stretch: Stretch) -> np.ndarray:
        """Samples (T,) -> logits (F, N_VALUES + 1) of the wanted frames' pitch codes."""

    def latents(self, samples: np.ndarray, source: np.ndarray, speaker: np.ndarray, stretch: Stretch) -> np.ndarray:
        """Samples and their harmonic source (T,), speaker vector (S,) -> latents (C, F) of the wanted frames."""

    def gains(
        self, latents: np.ndarray, pitch: np.ndarray, speaker: np.ndarray, direct: np.ndarray, stretch: Stretch
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What the decoder shapes its sources with, for the short frames that cover the wanted frames.

        Args:
            latents: (C, F).
            pitch: (F,) int64 pitch codes.
            speaker: (S,) speaker vector.
            direct: (F,) bool, frames that get the part without a source, too.
            stretch: of the latents.

        Returns:
            (N, 4 * bins) gains of the sources; (N, 3 * bins) the part without a source, or None.
        """


class EncoderStream(Protocol):
    """One channel of waveform in, packets out."""

    #: The quantized speaker vector (S,), known when the first packet is out.
    speaker: np.ndarray | None

    def push(self, samples: np.ndarray) -> list[Packet]:
        """Samples (n,) float32 at the codec's rate -> the packets that are now complete."""

    def finish(self) -> list[Packet]:
        """The packets that were waiting for audio behind them; the last may be shorter."""


class DecoderStream(Protocol):
    """Packets in, one channel of waveform out."""

    def push(self, packet: Packet | None, n_frames: int | None = None) -> np.ndarray:
        """The next packet, or None and its number of frames when it is lost -> samples that are ready.

        Lost packets are concealed: speech is carried on from both sides, long gaps fade to silence.
        """

    def finish(self, n_samples: int) -> np.ndarray:
        """The rest, so that all pieces together have exactly ``n_samples`` samples."""


@runtime_checkable
class Codec(Protocol):
    """A speech codec as files, conversion and evaluation know it."""

    name: str
    sample_rate: int
    hop_length: int
    frame_rate: float
    packet_frames: int
    n_codebooks: int
    codebook_size: int
    default_n_codebooks: int
    conversion_codebooks: int
    #: Four bytes that files carry to name the model.
    model_hash: bytes
    #: Where the model was loaded from, or None.
    folder: Path | None

    @property
    def shape(self) -> CodecShape:
        """Sizes of its networks."""

    @property
    def bitrates(self) -> list[float]:
        """Nominal kb/s by the number of codebooks, ascending."""

    @property
    def n_speaker_levels(self) -> int:
        """Values that an entry of a quantized speaker vector can have."""

    @property
    def speaker_bits(self) -> int:
        """Bits of one value of a quantized speaker vector."""

    @property
    def decoders(self) -> list[str]:
        """Names of the decoders that the model has."""

    def encoder_stream(
        self,
        n_codebooks: int | None = None,
        packet_frames: int | None = None,
        speaker: np.ndarray | None = None,
        lookahead: int | None = None,
    ) -> EncoderStream:
        """Code one channel while it arrives, in packets of so many frames, each with a look-ahead of so many."""

    def decoder_stream(
        self, speaker: np.ndarray, decoder: str = "parallel", *, lookahead: int | None = None
    ) -> DecoderStream:
        """Decode one channel while its packets arrive, with a look-ahead of so many frames."""

    def speaker_levels(self, samples: np.ndarray) -> np.ndarray:
        """A stretch (T,) of speech -> the speaker vector before rounding (S,) float64."""


class VoiceConversion(Protocol):
    """Conversion of a recording, or of its packets, to another speaker."""

    #: The quantized speaker vector (S,) of the target.
    vector: np.ndarray

    def encoder_stream(self, codec: Codec, n_codebooks: int | None, packet_frames: int | None) -> EncoderStream:
        """Code one channel of the source."""

    def decoder_stream(self, codec: Codec, decoder: str = "parallel") -> DecoderStream:
        """Decode one channel in the target's voice."""

    def observe(self, samples: np.ndarray, sample_rate: int) -> None:
        """Note a block (n, channels) of the source, for `remarks`."""

    def remarks(self) -> list[str]:
        """Warnings about the source."""

    def move(self, packets: Iterable[Sequence[Packet]], ended: bool = False) -> list[Sequence[Packet]]:
        """Packets of all channels -> those that are ready, their pitch moved; ``ended``: none follow."""


@runtime_checkable
class VisualCodec(Protocol):
    """A codec for images or for video clips as files know it."""

    name: str
    #: Four bytes that files carry to name the model.
    model_hash: bytes
    #: (codebooks, codebook size, stride in pixels) of each level of codes, coarse to fine.
    levels: list[tuple[int, int, int]]
    #: Frames of a code; 1 for images.
    time_stride: int

    def grid(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Height and width of each level's codes for frames of this size in pixels."""

    def encode_frames(self, frames: np.ndarray) -> tuple[np.ndarray, ...]:
        """Frames (T, H, W, 3) uint8 -> codes of each level, (K, t, h, w) int64."""

    def decode_frames(self, codes: Sequence[np.ndarray], size: tuple[int, int], n_frames: int) -> np.ndarray:
        """Codes of each level, (K, t, h, w) -> frames (T, H, W, 3) uint8."""
