"""The speech codec: encoder, quantizer, speaker vector and decoders joined behind one small interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.codec.codec import SpeechCodec as WithPitch
from audiovq.codec.speaker import SpeakerEncoder, SpeakerTable
from audiovq.errors import AudioVQError
from audiovq.hub import load_codec, missing_decoder, model_folder, read_config
from audiovq.interfaces import EncodedSpeech, Packet
from audiovq.quantize import Quantized, ResidualVectorQuantizer
from audiovq.speech.encoder import SpeechEncoder
from audiovq.speech.fast import SpanEncoder
from audiovq.speech.parallel import ParallelDecoder

if TYPE_CHECKING:
    from audiovq.conversion.request import Pitch
    from audiovq.conversion.spectral_match import Timbre
    from audiovq.conversion.target import TargetVoice
    from audiovq.speech.stream import DecoderStream, EncoderStream

    #: Something that tells a voice: a recording, or where one is, or a bundled voice's name.
    Target = str | Path | Tensor | np.ndarray


class SpeechCodec(nn.Module):
    """Raw 16 kHz speech to discrete codes and back.

    Everything runs on a fixed grid: packets of ``packet_frames`` latents, each computed with the context it needs and
    alone (a batch of one), so that codes and samples are the same however the audio arrives: as one array, in pieces
    through a pipe, or beside others in a batch.

    Args:
        encoder, quantizer, decoder: constructor arguments of `SpeechEncoder`, `ResidualVectorQuantizer` and
            `ParallelDecoder`.
        speaker_encoder: constructor arguments of `SpeakerEncoder`, or of `SpeakerTable` when ``n_speakers`` is there.
        sample_rate: Hz.
        packet_frames: latents of a packet.
        default_n_codebooks: what `encode` uses when nothing is asked for.
        name: the model's name, for messages.
        conversion_codebooks: what `convert` uses when nothing is asked for; ``default_n_codebooks`` when None.
    """

    def __init__(
        self,
        encoder: dict[str, Any],
        quantizer: dict[str, Any],
        speaker_encoder: dict[str, Any],
        decoder: dict[str, Any],
        sample_rate: int = 16000,
        packet_frames: int = 200,
        default_n_codebooks: int = 4,
        name: str = "unnamed",
        conversion_codebooks: int | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(  # noqa: C408
            encoder=encoder,
            quantizer=quantizer,
            speaker_encoder=speaker_encoder,
            decoder=decoder,
            sample_rate=sample_rate,
            packet_frames=packet_frames,
            default_n_codebooks=default_n_codebooks,
            name=name,
            conversion_codebooks=conversion_codebooks,
        )
        self.name, self.sample_rate, self.packet_frames = name, sample_rate, packet_frames
        self.encoder = SpeechEncoder(**encoder)
        self.hop_length = self.encoder.hop_length
        self.frame_rate = sample_rate / self.hop_length
        latent_dim = encoder["latent_dim"]
        self.quantizer = ResidualVectorQuantizer(latent_dim, **quantizer)
        self.has_speaker_table = "n_speakers" in speaker_encoder
        self.speaker_encoder: SpeakerTable | SpeakerEncoder = (
            SpeakerTable(**speaker_encoder) if self.has_speaker_table else SpeakerEncoder(**speaker_encoder)
        )
        speaker_dim = self.speaker_encoder.dim
        self.decoder = ParallelDecoder(latent_dim, speaker_dim, hop_length=self.hop_length, **decoder)
        self.n_codebooks: int = quantizer["n_codebooks"]
        self.codebook_size: int = quantizer["codebook_size"]
        self.default_n_codebooks = default_n_codebooks
        self.conversion_codebooks = conversion_codebooks or default_n_codebooks
        self._span_encoder: SpanEncoder | None = None
        self.seed = 0
        #: Whether files carry pitch and level beside the codes.
        self.has_pitch = False
        #: See `audiovq.hub.codes_hash`; files carry it. Zero for a model that was not loaded.
        self.model_hash = b"\0\0\0\0"
        #: Where it was loaded from: bundled voices lie beside the weights.
        self.folder: Path | None = None

    # -- what a trainer calls ---------------------------------------------------------------------------------------

    def forward(self, waveform: Tensor, speaker: Tensor, n_codebooks: int | None = None) -> tuple[Tensor, Quantized]:
        """Waveforms (B, 1, T) -> decoded (B, 1, T) and the quantizer's result.

        ``speaker`` is another stretch of each item's speaker (B, 1, T'), or its number (B,) with a speaker table.
        """
        quantized = self.quantizer(self.encoder(waveform), n_codebooks)
        return self.decoder(quantized.latents, self.speaker_encoder(speaker)), quantized

    # -- what users call --------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None) -> SpeechCodec:
        """Load a bundled model by name (default: the bundled speech model) or a folder with config and weights.

        Raises:
            AudioVQError: when there is no such model, or its files are damaged.
        """
        folder = model_folder(name_or_dir)
        return WithPitch.from_pretrained(folder) if "pitch" in read_config(folder) else load_codec(cls, folder)  # type: ignore[return-value]

    @property
    def bitrates(self) -> list[float]:
        """Nominal kb/s by the number of codebooks, ascending."""
        bits = (self.codebook_size - 1).bit_length()
        return [k * bits * self.frame_rate / 1000 for k in range(1, self.n_codebooks + 1)]

    @property
    def n_speaker_levels(self) -> int:
        """Values that an entry of a quantized speaker vector can have."""
        return self.speaker_encoder.levels

    @property
    def speaker_bits(self) -> int:
        """Bits of one value of a quantized speaker vector."""
        return (self.speaker_encoder.levels - 1).bit_length()

    def check_n_codebooks(self, n_codebooks: int | None) -> int:
        """The number itself, or the default for None.

        Raises:
            AudioVQError: when the model has no such number of codebooks.
        """
        n = self.default_n_codebooks if n_codebooks is None else n_codebooks
        if not 1 <= n <= self.n_codebooks:
            raise AudioVQError(f"model {self.name} has 1 to {self.n_codebooks} codebooks, {n} were asked for")
        return n

    @torch.inference_mode()
    def encode(
        self, waveform: Tensor | Sequence[Tensor], sample_rate: int = 16000, n_codebooks: int | None = None
    ) -> EncodedSpeech:
        """Code a batch: (B, 1, T), or a list of B waveforms (T_i,) of any lengths.

        Each item gets the codes it would get alone.

        Raises:
            AudioVQError: for an empty, NaN or infinite waveform, or a number of codebooks the model has not.
        """
        items = [self._at_own_rate(item, sample_rate) for item in waveform]
        codes, speakers = [], []
        for item in items:
            stream = self.encoder_stream(n_codebooks)
            packets = stream.push(item) + stream.finish()
            codes.append(torch.from_numpy(np.concatenate([packet.codes for packet in packets], axis=1)))
            speakers.append(torch.from_numpy(stream.speaker))
        longest = max(c.shape[1] for c in codes)
        return EncodedSpeech(
            codes=torch.stack([F.pad(c, (0, longest - c.shape[1])) for c in codes]),
            speaker=torch.stack(speakers),
            n_samples=torch.tensor([len(item) for item in items]),
        )

    @torch.inference_mode()
    def decode(self, encoded: EncodedSpeech, decoder: str = "parallel", speaker: Tensor | None = None) -> Tensor:
        """Decode a batch -> (B, 1, max n_samples); items that are shorter end in zeros.

        Args:
            encoded: what `encode` gave.
            decoder: ``parallel``.
            speaker: other speaker vectors (B, S) to speak with, as integers: this converts the voice.

        Raises:
            AudioVQError: for a decoder this model has not.
        """
        speakers = encoded.speaker if speaker is None else speaker
        longest = int(encoded.n_samples.max())
        waveforms = []
        for codes, who, n_samples in zip(encoded.codes, speakers, encoded.n_samples.tolist(), strict=True):
            stream = self.decoder_stream(who.numpy(), decoder)
            own = codes[:, : -(-n_samples // self.hop_length)].numpy()
            pieces = [
                stream.push(Packet(own[:, i : i + self.packet_frames]))
                for i in range(0, own.shape[1], self.packet_frames)
            ]
            pieces.append(stream.finish(n_samples))
            waveforms.append(F.pad(torch.from_numpy(np.concatenate(pieces)), (0, longest - n_samples)))
        return torch.stack(waveforms).unsqueeze(1)

    def convert(
        self,
        waveform: Tensor | Sequence[Tensor],
        to: TargetVoice | Target | Sequence[Target],
        sample_rate: int = 16000,
        n_codebooks: int | None = None,
        pitch: Pitch = "auto",
        decoder: str = "parallel",
        timbre: Timbre = "auto",
    ) -> Tensor:
        """Let another voice say it -> (B, 1, max n_samples) at the codec's rate; shorter items end in zeros.

        Args:
            waveform: (B, 1, T), or a list of B waveforms (T_i,).
            to: the voice: a recording (T,) at ``sample_rate``, a path of one, an .avq file, a bundled voice's name, or
                several of these, which are averaged; or what `target_voice` gave.
            sample_rate: of the waveforms, Hz.
            n_codebooks: how many books carry what is said; the model's default for conversion when None.
            pitch: moves each source before it is coded: ``auto`` to the target's register, ``keep`` not at all, or by
                so many semitones.
            decoder: which of the model's decoders.
            timbre: ``auto`` moves the long-term average spectrum of what was converted to the target's, where two
                seconds or more of it were heard; ``keep`` leaves it as it is decoded.

        Raises:
            AudioVQError: for a target that is silent, too short or not to be found; see also `encode` and `decode`.
        """
        from audiovq.speech.conversion import convert

        voice = self.target_voice(to, sample_rate)
        sources = [self._at_own_rate(item, sample_rate) for item in waveform]
        return convert(self, sources, voice, n_codebooks, pitch, decoder, timbre)

    def target_voice(self, to: TargetVoice | Target | Sequence[Target], sample_rate: int = 16000) -> TargetVoice:
        """A voice for `convert`, made once for many sources; its ``warnings()`` say what is doubtful about it.

        Raises:
            AudioVQError: for what is no recording, no .avq file of this model and no bundled voice.
        """
        from audiovq.conversion.target import TargetVoice
        from audiovq.conversion.targets import gather_voice

        if isinstance(to, TargetVoice):
            return to
        targets = [to] if isinstance(to, str | Path | Tensor | np.ndarray) else list(to)
        return gather_voice(
            self, [t if isinstance(t, str | Path) else self._at_own_rate(t, sample_rate) for t in targets]
        )

    def _at_own_rate(self, waveform: Tensor | np.ndarray, sample_rate: int) -> np.ndarray:
        """One waveform as (T,) float32 at the codec's rate."""
        from audiovq.media.waveform import resample

        samples = torch.as_tensor(waveform).detach().cpu().float().reshape(-1).numpy()
        return samples if sample_rate == self.sample_rate else resample(samples, sample_rate, self.sample_rate)

    def save(self, encoded: EncodedSpeech, target: str | Path) -> None:
        """Write an .avq file. The items of a batch of equal lengths become its channels.

        Raises:
            AudioVQError: for items of unequal lengths, or a target that cannot be written.
        """
        from audiovq.bitstream import save_encoded

        save_encoded(encoded, target, self)

    def load(self, source: str | Path) -> EncodedSpeech:
        """Read an .avq file of this model, one item for each channel.

        Raises:
            AudioVQError: for a damaged file or a file of another model.
        """
        from audiovq.bitstream import load_encoded

        return load_encoded(source, self)

    @torch.no_grad()
    def speaker_levels(self, samples: np.ndarray) -> np.ndarray:
        """A stretch (T,) of speech -> the speaker vector before rounding (S,) float64: these can be averaged."""
        assert isinstance(self.speaker_encoder, SpeakerEncoder)
        return self.speaker_encoder.levels_of(torch.from_numpy(samples)[None, None])[0].double().numpy()

    def span_encoder(self) -> SpanEncoder:
        """The encoder folded for inference; made once per evaluation, since training moves the weights."""
        if self._span_encoder is None:
            self._span_encoder = SpanEncoder(self.encoder)
        return self._span_encoder

    def train(self, mode: bool = True) -> SpeechCodec:
        """As in torch; also forgets what was folded for inference."""
        self._span_encoder = None
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in torch; also forgets what was folded for inference."""
        self._span_encoder = None
        return super().load_state_dict(*args, **kwargs)

    def encoder_stream(
        self, n_codebooks: int | None = None, packet_frames: int | None = None, speaker: np.ndarray | None = None
    ) -> EncoderStream:
        """Code one channel while it arrives.

        Raises:
            AudioVQError: for other packets than the model's.
        """
        if packet_frames not in (None, self.packet_frames) or speaker is not None:
            raise AudioVQError(f"model {self.name} has packets of {self.packet_frames} frames and no others")
        from audiovq.speech.stream import EncoderStream

        return EncoderStream(self, self.check_n_codebooks(n_codebooks))

    def decoder_stream(self, speaker: np.ndarray, decoder: str = "parallel") -> DecoderStream:
        """Decode one channel while its packets arrive.

        Raises:
            AudioVQError: for a decoder this model has not.
        """
        if decoder not in self.decoders:
            raise missing_decoder(self.name, decoder, self.decoders)
        from audiovq.speech.stream import ParallelStream

        return ParallelStream(self, speaker)

    @property
    def decoders(self) -> list[str]:
        """Names of the decoders that the model has."""
        return ["parallel"]
