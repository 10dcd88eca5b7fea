"""This package's models as systems to evaluate: coding, and voice conversion."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from audiovq.bitstream import save_encoded
from audiovq.bitstream.speech_layout import pack_side
from audiovq.codec.signal import TARGET_DB, HighPass, dequantize_level
from audiovq.evaluation.protocol import Coded
from audiovq.interfaces import EncodedSpeech, Packet

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec
    from audiovq.conversion.pitch import Pitch
    from audiovq.conversion.target import TargetVoice
    from audiovq.evaluation.protocols.pairs import ConversionPair


class AudioVQSystem:
    """A `SpeechCodec` with a number of codebooks and one of its decoders."""

    exact = True

    def __init__(self, codec: SpeechCodec, n_codebooks: int, decoder: str = "parallel") -> None:
        self._codec, self.decoder, self.n_codebooks = codec, decoder, n_codebooks
        suffix = "" if decoder == "parallel" else f" {decoder}"
        self.family = f"audiovq{suffix}"
        self.name = f"audiovq {codec.bitrates[n_codebooks - 1]:g}{suffix}"
        self.call = f"model {codec.name}, {n_codebooks} codebooks, {decoder} decoder"

    def code(self, waveform: np.ndarray) -> Coded:
        encoded = self._codec.encode(torch.from_numpy(waveform).view(1, 1, -1), n_codebooks=self.n_codebooks)
        decoded = self._codec.decode(encoded, decoder=self.decoder)[0, 0].numpy()
        bits = (self._codec.codebook_size - 1).bit_length()
        payload = -(-encoded.codes[0].numel() * bits // 8) + self._side_bytes(encoded)
        file = io.BytesIO()
        save_encoded(encoded, file, self._codec)
        return Coded(decoded, payload, file.getbuffer().nbytes)

    def _side_bytes(self, encoded: EncodedSpeech) -> int:
        """Size of the pitch and the level of one item."""
        codes, pitch = encoded.codes[0].numpy(), encoded.pitch[0].numpy()
        size = encoded.packet_frames or self._codec.packet_frames
        starts = range(0, codes.shape[1], size)
        parts = (slice(start, start + size) for start in starts)
        packets = (
            Packet(codes[:, part], pitch[part], level)
            for part, level in zip(parts, encoded.level[0].tolist(), strict=True)
        )
        return sum(len(pack_side([packet])) for packet in packets)


@torch.no_grad()
def latents_of(codec: SpeechCodec, samples: np.ndarray, encoder: nn.Module | None = None) -> Tensor:
    """Latents (C, F) of a recording (T,), T a multiple of the hop length, encoded in one piece.

    Args:
        codec: the model.
        samples: float32 at 16 kHz.
        encoder: another encoder than the model's.
    """
    encoder = encoder or codec.encoder
    waveform = torch.from_numpy(samples)[None, None]
    # The encoder reads level-normalised audio, the harmonic source of its pitch, and the speaker.
    encoded = codec.encode(waveform)
    gains = 10 ** ((TARGET_DB - dequantize_level(encoded.level)) / 20)
    gains = gains.repeat_interleave((encoded.packet_frames or codec.packet_frames) * codec.hop_length, 1)[
        :, : len(samples)
    ]
    normalised = torch.from_numpy(HighPass(codec.sample_rate)(samples))[None] * gains
    speaker = codec.speaker_encoder.decode(encoded.speaker).float()
    return encoder(normalised[None].float(), speaker, codec.source(encoded.pitch))[0]


class Reconstruction:
    """A recording coded and decoded with its own speaker vector: the model's loss before conversion.

    Args:
        codec, n_codebooks, decoder: the model.
        of: "source", or "truth": the true result of a pair.
    """

    family, keeps_words = "reference", True

    def __init__(self, codec: SpeechCodec, n_codebooks: int | None, decoder: str, of: str = "source") -> None:
        self._codec, self._n_codebooks, self._decoder = codec, codec.check_n_codebooks(n_codebooks), decoder
        self._of = of
        self.name = f"{'true result' if of == 'truth' else of}, coded ({self._n_codebooks})"
        self.call = f"model {codec.name}, {self._n_codebooks} codebooks, {decoder} decoder, its own speaker vector"

    def convert(self, pair: ConversionPair) -> np.ndarray:
        recording = pair.truth if self._of == "truth" and pair.truth is not None else pair.source
        encoded = self._codec.encode([torch.from_numpy(recording.load())], n_codebooks=self._n_codebooks)
        return self._codec.decode(encoded, decoder=self._decoder)[0, 0].numpy()


class ModelConverter:
    """A `SpeechCodec` with the speaker vector of the target's reference."""

    family, keeps_words = "converter", True

    def __init__(self, codec: SpeechCodec, n_codebooks: int | None, pitch: Pitch, decoder: str) -> None:
        n_codebooks = codec.check_n_codebooks(n_codebooks or codec.conversion_codebooks)
        self._codec = codec
        self._options = {"n_codebooks": n_codebooks, "pitch": pitch, "decoder": decoder}
        self.name = f"converted ({n_codebooks}, pitch {pitch})"
        self.call = f"model {codec.name}, {n_codebooks} codebooks, {decoder} decoder, pitch {pitch}"
        self._targets: dict[str, TargetVoice] = {}

    def convert(self, pair: ConversionPair) -> np.ndarray:
        speaker = pair.target.speaker
        if speaker not in self._targets:
            self._targets[speaker] = self._codec.target_voice(pair.target.reference.load())
        source = torch.from_numpy(pair.source.load())
        return self._codec.convert([source], self._targets[speaker], **self._options)[0, 0].numpy()  # type: ignore[arg-type]
