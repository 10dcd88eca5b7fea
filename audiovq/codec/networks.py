"""The speech codec's networks, and the pass through them that is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from audiovq.codec.concealment import fill_gaps
from audiovq.codec.decoder import SourceFilterDecoder
from audiovq.codec.encoder import SpeechEncoder
from audiovq.codec.pitch import PitchTracker, pitch_to_hz
from audiovq.codec.source import harmonic_source
from audiovq.codec.speaker import SpeakerEncoder
from audiovq.quantize.functional import Quantized
from audiovq.quantize.split import SplitQuantizer


@dataclass
class Reconstruction:
    """A training batch after coding.

    Attributes:
        waveform: (B, 1, T), decoded.
        quantized: the quantizer's result.
        pitch: (B, F) pitch codes that it was decoded with.
    """

    waveform: Tensor
    quantized: Quantized
    pitch: Tensor


class CodecNetworks(nn.Module):
    """Encoder, quantizer, speaker encoder, pitch tracker and decoder, and the pass through them that is trained.

    Args:
        encoder: arguments of `SpeechEncoder` without the speaker vector's length.
        quantizer: arguments of `SplitQuantizer` without the channels.
        speaker_encoder, decoder, pitch: arguments of `SpeakerEncoder`, `SourceFilterDecoder`, `PitchTracker`.
        sample_rate: Hz.
        packet_frames: frames of a packet, when nothing is asked for.
        default_n_codebooks: what `encode` uses when nothing is asked for.
        conversion_codebooks: what `convert` uses when nothing is asked for; ``default_n_codebooks`` when None.
        name: the model's name, for messages.
    """

    def __init__(
        self,
        encoder: dict[str, Any],
        quantizer: dict[str, Any],
        speaker_encoder: dict[str, Any],
        decoder: dict[str, Any],
        pitch: dict[str, Any],
        sample_rate: int = 16000,
        packet_frames: int = 200,
        default_n_codebooks: int = 4,
        conversion_codebooks: int | None = None,
        name: str = "unnamed",
    ) -> None:
        super().__init__()
        self.config = {
            "encoder": encoder,
            "quantizer": quantizer,
            "speaker_encoder": speaker_encoder,
            "decoder": decoder,
            "pitch": pitch,
            "sample_rate": sample_rate,
            "packet_frames": packet_frames,
            "default_n_codebooks": default_n_codebooks,
            "conversion_codebooks": conversion_codebooks,
            "name": name,
        }
        self.name, self.sample_rate, self.packet_frames = name, sample_rate, packet_frames
        self.default_n_codebooks = default_n_codebooks
        self.conversion_codebooks = conversion_codebooks or default_n_codebooks
        self.speaker_encoder = SpeakerEncoder(**speaker_encoder)
        self.encoder = SpeechEncoder(**encoder, speaker_dim=self.speaker_encoder.dim)
        self.hop_length = self.encoder.hop_length
        self.frame_rate = sample_rate / self.hop_length
        content_dim, detail_dim = encoder["content"]["latent_dim"], encoder["detail"]["latent_dim"]
        self.quantizer = SplitQuantizer(content_dim, detail_dim, **quantizer)
        self.n_codebooks, self.codebook_size = self.quantizer.n_codebooks, self.quantizer.codebook_size
        self.pitch = PitchTracker(**pitch, hop_length=self.hop_length, sample_rate=sample_rate)
        self.decoder = SourceFilterDecoder(
            self.encoder.latent_dim,
            self.speaker_encoder.dim,
            hop_length=self.hop_length,
            sample_rate=sample_rate,
            **decoder,
        )

    def source(self, pitch: Tensor) -> Tensor:
        """Pitch codes (B, F) -> harmonic source (B, 1, F * hop_length)."""
        return harmonic_source(pitch_to_hz(pitch), self.hop_length, self.sample_rate)[:, None]

    def forward(
        self,
        waveform: Tensor,
        speaker: Tensor,
        target_speaker: Tensor | None = None,
        target_pitch: Tensor | None = None,
        n_codebooks: int | Tensor | None = None,
        lost: Tensor | None = None,
    ) -> Reconstruction:
        """Code and decode.

        Args:
            waveform: (B, 1, T), level-normalised, T a multiple of the hop length.
            speaker: (B, S) vectors of the speakers of ``waveform``.
            target_speaker: (B, S) vectors to decode with; None: the same.
            target_pitch: (B, F) pitch codes to decode with; None: those of ``waveform``.
            n_codebooks: one number or (B,) for each item; None: drawn in training, all in evaluation.
            lost: (B, F) bool, frames that the decoder does not get: their neighbours bridge them.
        """
        pitch = self.pitch.track(waveform)
        latents = self.encoder(waveform, speaker, self.source(pitch))
        quantized = self.quantizer(latents, n_codebooks)
        pitch = pitch if target_pitch is None else target_pitch
        target_speaker = speaker if target_speaker is None else target_speaker
        books = (quantized.codes[:, :, 0] >= 0).sum(1)
        received = (quantized.latents, pitch) if lost is None else fill_gaps(quantized.latents, pitch, lost)
        decoded = self.decoder(*received, target_speaker, books)
        return Reconstruction(decoded, quantized, pitch)
