"""The speech codec: encoder, quantizer, pitch tracker, speaker encoder and decoder behind one small interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from audiovq.bitstream.speech_file import load_encoded, save_encoded
from audiovq.codec.batches import encode_items, recordings
from audiovq.codec.coding import Codebooks, StreamingCodec, parallel_stream
from audiovq.codec.concealment import LatentPredictor, fill_gaps
from audiovq.codec.decoder import SourceFilterDecoder, harmonic_source
from audiovq.codec.decoder_stream import StreamFactory
from audiovq.codec.encoder import PitchTracker, SpeakerEncoder, SpeechEncoder, pitch_to_hz
from audiovq.codec.torch_engine import TorchEngine, codebooks_of, shape_of
from audiovq.conversion.pitch import Pitch, PitchMover
from audiovq.conversion.target import TargetVoice, target_voice
from audiovq.devices import arguments, check_float32
from audiovq.errors import AudioVQError
from audiovq.hub import has_wavenet, load_codec, model_folder, read_speech_config
from audiovq.interfaces import CodecShape, CodedChannel, EncodedSpeech, Engine, Packet
from audiovq.quantize.functional import Quantized
from audiovq.quantize.residual import SplitQuantizer

if TYPE_CHECKING:
    Target = str | Path | Tensor | np.ndarray


@dataclass
class Reconstruction:
    """A training batch after coding."""

    waveform: Tensor  # (B, 1, T), decoded
    quantized: Quantized
    pitch: Tensor  # (B, F) pitch codes that it was decoded with


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
        self.config: dict[str, Any] = arguments(locals())
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
        predictor: LatentPredictor | None = None,
    ) -> Reconstruction:
        """Code waveforms (B, 1, T), level-normalised, T a multiple of the hop length, and decode.

        Args:
            speaker, target_speaker: (B, S) vectors of the speakers, and those to decode with; None: the same.
            target_pitch: (B, F) pitch codes to decode with; None: those of the waveform.
            n_codebooks: one number or (B,) for each item; None: drawn in training, all in evaluation.
            lost: (B, F) bool, frames that the decoder does not get: their neighbours bridge them.
            predictor: fills them; None: in a straight line.
        """
        pitch = self.pitch.track(waveform)
        latents = self.encoder(waveform, speaker, self.source(pitch))
        quantized = self.quantizer(latents, n_codebooks)
        pitch = pitch if target_pitch is None else target_pitch
        target_speaker = speaker if target_speaker is None else target_speaker
        books = (quantized.codes[:, :, 0] >= 0).sum(1)
        received = quantized.latents, pitch
        if lost is not None:
            received = fill_gaps(*received, lost, predictor)
        decoded = self.decoder(*received, target_speaker, books, lost)
        return Reconstruction(decoded, quantized, pitch)


class SpeechCodec(StreamingCodec, CodecNetworks):
    """Raw 16 kHz speech to content code, detail codes, pitch, level and speaker vector, and back.

    Everything runs on a fixed grid: packets of equally many frames, each computed with the context it needs and
    alone (a batch of one), so that codes and samples are the same however the audio arrives: as one array, in pieces
    through a pipe, or beside others in a batch.

    Args:
        settings: see `CodecNetworks`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._folded: dict[str, Any] = {}
        self._decoders = {"parallel": parallel_stream}

    def __getstate__(self) -> dict[str, Any]:
        """As in torch, without what was folded for inference."""
        return {**self.__dict__, "_folded": {}}

    def train(self, mode: bool = True) -> SpeechCodec:
        """As in torch; also forgets what was folded for inference."""
        self._folded.clear()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """As in torch (``to``, ``float``, ...); also forgets what was folded for inference."""
        self._folded.clear()
        return super()._apply(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in torch; also forgets what was folded for inference."""
        self._folded.clear()
        return super().load_state_dict(*args, **kwargs)

    # -- coding -------------------------------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:  # type: ignore[override]
        """The networks folded for inference; made once per evaluation, since training moves the weights.

        Raises:
            AudioVQError: for weights that are not float32.
        """
        check_float32(self)
        return self._fold("engine", lambda: TorchEngine(self))

    @property
    def shape(self) -> CodecShape:  # type: ignore[override]
        """Sizes of the networks."""
        return shape_of(self)

    @property
    def codebooks(self) -> Codebooks:  # type: ignore[override]
        """The quantizer's tables; made once per evaluation."""
        return self._fold("codebooks", lambda: codebooks_of(self.quantizer))

    def _fold(self, name: str, make: Callable[[], Any]) -> Any:
        if self.training or name not in self._folded:
            self._folded[name] = make()
        return self._folded[name]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encode(
        self,
        waveform: Tensor | np.ndarray | Sequence[Tensor | np.ndarray],
        sample_rate: int | None = None,
        n_codebooks: int | None = None,
        packet_frames: int | None = None,
    ) -> EncodedSpeech:
        """Code a batch (B, 1, T), one recording (T,), or a list of B recordings (T_i,) of any lengths.

        Each item gets the codes it would get alone. Integer samples are scaled by their type. On an accelerator
        (``codec.to("cuda")``) packets of equal length are coded together, see `audiovq.codec.batches`; the result is
        on the CPU.

        Args:
            waveform: samples in -1..1, or integers.
            sample_rate: of the waveforms, Hz; None: the codec's own.
            n_codebooks: how many codebooks to use; None: the model's default.
            packet_frames: frames of a packet: short ones lose less to a bad line, and cost more bits and time; None:
                the model's default.

        Raises:
            AudioVQError: for an empty, NaN or infinite waveform, another shape, or a number of codebooks or of frames
                that the model does not have.
        """
        items = recordings(waveform, self.sample_rate if sample_rate is None else sample_rate, self.sample_rate)
        size, coded = self.check_packet_frames(packet_frames), encode_items(self, items, n_codebooks, packet_frames)
        return EncodedSpeech.of([CodedChannel(*one, len(item), size) for one, item in zip(coded, items, strict=True)])

    def decode(
        self,
        encoded: EncodedSpeech,
        decoder: str = "parallel",
        speaker: Tensor | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Decode a batch -> (B, 1, max n_samples); items that are shorter end in zeros.

        Args:
            encoded: what `encode` gave.
            decoder: one of the model's decoders.
            speaker: other speaker vectors (B, S) to decode with, as integers: this converts the voice.
            seed: of what the decoder samples; None: the codec's ``seed``.

        Raises:
            AudioVQError: for anything but an `EncodedSpeech`, for speaker vectors of another shape, or a decoder that
                the model does not have.
        """
        if not isinstance(encoded, EncodedSpeech):
            raise AudioVQError(f"decode takes the EncodedSpeech that encode returned, not {type(encoded).__name__}")
        speakers = encoded.speaker if speaker is None else speaker
        if not isinstance(speakers, Tensor):
            raise AudioVQError(f"speaker takes a tensor of vectors, not {type(speaker).__name__}; convert takes names")
        if speakers.shape != encoded.speaker.shape:
            raise AudioVQError(f"speaker vectors must be {tuple(encoded.speaker.shape)}, not {tuple(speakers.shape)}")
        waveforms = []
        for i in range(len(speakers)):
            channel, stream = encoded.channel(i, self), self.decoder_stream(speakers[i].cpu().numpy(), decoder, seed)
            pieces = [stream.push(packet) for packet in channel.packets]
            waveforms.append(torch.from_numpy(np.concatenate([*pieces, stream.finish(channel.n_samples)])))
        return pad_sequence(waveforms, batch_first=True).unsqueeze(1)

    def add_decoder(self, name: str, factory: StreamFactory) -> None:
        """Offer a further decoder; ``factory(codec, speaker, seed)`` makes its stream."""
        self._decoders[name] = factory

    def convert(
        self,
        waveform: Tensor | np.ndarray | Sequence[Tensor | np.ndarray],
        to: TargetVoice | Target | Sequence[Target],
        sample_rate: int | None = None,
        n_codebooks: int | None = None,
        pitch: Pitch = "auto",
        decoder: str = "parallel",
    ) -> Tensor:
        """Convert speech to another voice -> (B, 1, max n_samples) at the codec's rate; shorter items end in zeros.

        Args:
            waveform: as for `encode`.
            to: the voice: a recording (T,) at ``sample_rate``, a path of one, an .avq file, a bundled voice's name, or
                several of these, which are averaged; or what `target_voice` gave.
            sample_rate: of the waveforms, Hz; None: the codec's own.
            n_codebooks: fewer leak less of the source's voice; None: the model's default for conversion.
            pitch: ``auto`` moves each source to the target's median, ``keep`` leaves it, a number moves it by so many
                semitones.
            decoder: one of the model's decoders.

        Raises:
            AudioVQError: for a target that is silent, too short or does not exist; see also `encode` and `decode`.
        """
        voice = self.target_voice(to, sample_rate)
        encoded = self.encode(waveform, sample_rate, self.conversion_codebooks if n_codebooks is None else n_codebooks)
        for i, track in enumerate(encoded.pitch.numpy()):
            mover = PitchMover(pitch, voice.pitch)
            ((packet,),) = mover.push([Packet(np.zeros((0, len(track)), np.int64), track, 0)]) or mover.finish()
            encoded.pitch[i] = torch.from_numpy(packet.pitch)
        vector = torch.from_numpy(voice.vector()).expand(len(encoded.speaker), -1)
        return self.decode(encoded, decoder, vector)

    def target_voice(self, to: TargetVoice | Target | Sequence[Target], sample_rate: int | None = None) -> TargetVoice:
        """A voice for `convert`, made once for many sources; its ``warnings()`` say what is doubtful about it.

        Raises:
            AudioVQError: for what is no recording, no .avq file of this model and no bundled voice.
        """
        if isinstance(to, TargetVoice):
            return to
        targets = [to] if isinstance(to, str | Path | Tensor | np.ndarray) else list(to)
        rate = self.sample_rate if sample_rate is None else sample_rate
        items = [t if isinstance(t, str | Path) else recordings([t], rate, self.sample_rate)[0] for t in targets]
        return target_voice(self, items)

    def save(self, encoded: EncodedSpeech, target: str | Path) -> None:
        """Write an .avq file. The items of a batch of equal lengths become its channels.

        Raises:
            AudioVQError: for items of unequal lengths, or a target that cannot be written.
        """
        save_encoded(encoded, target, self)

    def load(self, source: str | Path) -> EncodedSpeech:
        """Read an .avq file of this model, one item for each channel.

        Raises:
            AudioVQError: for a damaged file or a file of another model.
        """
        return load_encoded(source, self)

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None) -> SpeechCodec:
        """Load a bundled model by name (default: the bundled speech model) or a folder with config and weights.

        Raises:
            AudioVQError: when there is no such model, or its files are damaged.
        """
        folder = model_folder(name_or_dir)
        read_speech_config(folder)
        codec: SpeechCodec = load_codec(cls, folder)
        if has_wavenet(folder):
            # By name: nothing here depends on this decoder.
            codec.add_decoder("wavenet", import_module("audiovq.wavenet.sampler").WaveNetStreams(folder))
        return codec
