"""The speech codec: encoder, quantizer, pitch tracker, speaker encoder and decoder behind one small interface."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from audiovq.bitstream.speech_file import load_encoded, save_encoded
from audiovq.codec.audio import recordings
from audiovq.codec.chunked import ChunkedPitchTracker, ChunkedTrunk
from audiovq.codec.level import LOWEST_DB, TARGET_DB, HighPass, frame_levels
from audiovq.codec.networks import CodecNetworks
from audiovq.codec.packets import join_packets, padded, split_packets
from audiovq.codec.streaming import DecoderStream, EncoderStream, StreamFactory
from audiovq.codec.windows import encode_items
from audiovq.conversion.pitch import Pitch, PitchMover
from audiovq.conversion.target import TargetVoice, gather_voice
from audiovq.errors import AudioVQError
from audiovq.hub import has_wavenet, load_codec, missing_decoder, model_folder, read_speech_config
from audiovq.interfaces import PITCH_AND_LEVEL_KBPS, EncodedSpeech, Packet
from audiovq.nn.chunked_conv import Span
from audiovq.nn.precision import check_float32, full_precision

if TYPE_CHECKING:
    #: A recording, where one is, or a bundled voice's name.
    Target = str | Path | Tensor | np.ndarray


class SpeechCodec(CodecNetworks):
    """Raw 16 kHz speech to content code, detail codes, pitch, level and speaker vector, and back.

    Everything runs on a fixed grid: packets of equally many frames, each computed with the context it needs and
    alone (a batch of one), so that codes and samples are the same however the audio arrives: as one array, in pieces
    through a pipe, or beside others in a batch.

    Args:
        settings: see `CodecNetworks`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._chunked: dict[Any, Any] = {}
        self._decoders: dict[str, StreamFactory] = {"parallel": _parallel_stream}
        #: Of what decoders sample where no other seed is given.
        self.seed = 0
        #: See `audiovq.hub.codes_hash`; files carry it. Zero for a model that was not loaded.
        self.model_hash = b"\0\0\0\0"
        #: Where it was loaded from: bundled voices lie beside the weights.
        self.folder: Path | None = None

    def __getstate__(self) -> dict[str, Any]:
        """As in torch, without what was folded for inference."""
        return {**self.__dict__, "_chunked": {}}

    def train(self, mode: bool = True) -> SpeechCodec:
        """As in torch; also forgets what was folded for inference."""
        self._chunked.clear()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """As in torch (``to``, ``float``, ...); also forgets what was folded for inference."""
        self._chunked.clear()
        return super()._apply(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in torch; also forgets what was folded for inference."""
        self._chunked.clear()
        return super().load_state_dict(*args, **kwargs)

    # -- coding -------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def bitrates(self) -> list[float]:
        """Nominal kb/s by the number of codebooks, pitch and level included, ascending."""
        bits = (self.codebook_size - 1).bit_length()
        per_codebook = bits * self.frame_rate / 1000
        return [PITCH_AND_LEVEL_KBPS + k * per_codebook for k in range(1, self.n_codebooks + 1)]

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

    def check_packet_frames(self, packet_frames: int | None) -> int:
        """The number itself, or the model's for None.

        Raises:
            AudioVQError: for less than a frame, and for more than the model's.
        """
        n = self.packet_frames if packet_frames is None else packet_frames
        if not 1 <= n <= self.packet_frames:
            raise AudioVQError(f"model {self.name} has packets of 1 to {self.packet_frames} frames, not of {n}")
        return n

    def encode(
        self,
        waveform: Tensor | np.ndarray | Sequence[Tensor | np.ndarray],
        sample_rate: int | None = None,
        n_codebooks: int | None = None,
        packet_frames: int | None = None,
    ) -> EncodedSpeech:
        """Code a batch (B, 1, T), one recording (T,), or a list of B recordings (T_i,) of any lengths.

        Each item gets the codes it would get alone. Integer samples are scaled by their type. On an accelerator
        (``codec.to("cuda")``) packets of equal length are coded together, see `audiovq.codec.windows`; the result is
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
        items = recordings(waveform, sample_rate or self.sample_rate, self.sample_rate)
        packets, speakers = zip(*encode_items(self, items, n_codebooks, packet_frames), strict=True)
        vectors, lengths = [torch.from_numpy(one) for one in speakers], [len(item) for item in items]
        return join_packets(packets, vectors, lengths, self.check_packet_frames(packet_frames))

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
            AudioVQError: for speaker vectors of another shape, or a decoder that the model does not have.
        """
        speakers = encoded.speaker if speaker is None else speaker
        if speakers.shape != encoded.speaker.shape:
            raise AudioVQError(f"speaker vectors must be {tuple(encoded.speaker.shape)}, not {tuple(speakers.shape)}")
        waveforms = []
        for i, n_samples in enumerate(encoded.n_samples.tolist()):
            stream = self.decoder_stream(speakers[i].cpu().numpy(), decoder, seed)
            size = encoded.packet_frames or self.packet_frames
            pieces = [stream.push(packet) for packet in split_packets(encoded, i, size, self.hop_length)]
            waveforms.append(torch.from_numpy(np.concatenate([*pieces, stream.finish(n_samples)])))
        return padded(waveforms).unsqueeze(1)

    def encoder_stream(
        self, n_codebooks: int | None = None, packet_frames: int | None = None, speaker: np.ndarray | None = None
    ) -> EncoderStream:
        """Code one channel while it arrives.

        Args:
            n_codebooks, packet_frames: see `encode`.
            speaker: the quantized speaker vector (S,), where it is known beforehand. Without it the first packet waits
                for ``self.packet_frames`` frames, from which the vector is computed.

        Raises:
            AudioVQError: for a number of codebooks or of frames that the model does not have, and weights that are not
                float32.
        """
        check_float32(self)
        n_codebooks, packet_frames = self.check_n_codebooks(n_codebooks), self.check_packet_frames(packet_frames)
        return EncoderStream(self, n_codebooks, packet_frames, speaker)

    @property
    def decoders(self) -> list[str]:
        """Names of the decoders that the model has."""
        return list(self._decoders)

    def add_decoder(self, name: str, factory: StreamFactory) -> None:
        """Offer a further decoder; ``factory(codec, speaker, seed)`` makes its stream."""
        self._decoders[name] = factory

    def decoder_stream(self, speaker: np.ndarray, decoder: str = "parallel", seed: int | None = None) -> DecoderStream:
        """Decode one channel while its packets arrive.

        Args:
            speaker: (S,) quantized speaker vector.
            decoder: one of the model's decoders.
            seed: of what the decoder samples; None: the codec's ``seed``.

        Raises:
            AudioVQError: for a decoder that the model does not have, and weights that are not float32.
        """
        check_float32(self)
        if decoder not in self.decoders:
            raise missing_decoder(self.name, decoder, self.decoders)
        return self._decoders[decoder](self, speaker, self.seed if seed is None else seed)

    @full_precision
    def speaker_levels(self, samples: np.ndarray) -> np.ndarray:
        """A stretch (T,) of speech -> the speaker vector before rounding (S,) float64: these can be averaged."""
        check_float32(self)
        waveform = torch.from_numpy(HighPass(self.sample_rate)(samples))[None]
        loudest = float(frame_levels(waveform, self.hop_length).max()) if len(samples) >= self.hop_length else TARGET_DB
        waveform = waveform * 10 ** ((TARGET_DB - max(loudest, LOWEST_DB)) / 20)
        return self.speaker_encoder.levels_of(waveform[None].to(self.device))[0].double().cpu().numpy()

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
        rate = sample_rate or self.sample_rate
        items = [t if isinstance(t, str | Path) else recordings([t], rate, self.sample_rate)[0] for t in targets]
        return gather_voice(self, items)

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
            codec.add_decoder("wavenet", import_module("audiovq.wavenet.streaming").WaveNetStreams(folder))
        return codec

    # -- inference on stretches ---------------------------------------------------------------------------------------

    def chunked_pitch(self) -> ChunkedPitchTracker:
        """The pitch tracker folded for inference; made once per evaluation, since training moves the weights."""
        if "pitch" not in self._chunked:
            self._chunked["pitch"] = ChunkedPitchTracker(self.pitch)
        return self._chunked["pitch"]

    def latents(self, samples: Tensor, source: Tensor, start: int, total: int | None, speaker: np.ndarray) -> Span:
        """Latents of a stretch as rows (F, C).

        Args:
            samples, source: (T,) the stretch, level-normalised, and its harmonic source; whole frames.
            start: position of the first sample in the recording.
            total: samples of the recording in whole frames; None when its end is not known yet.
            speaker: (S,) quantized speaker vector.
        """
        assert self.encoder.content is not None
        key = tuple(speaker.tolist())
        if "content" not in self._chunked:
            self._chunked["content"] = ChunkedTrunk(self.encoder.content)
        if self._chunked.get("speaker") != key:
            quantized = torch.from_numpy(np.asarray(speaker, np.int64))[None].to(self.device)
            vector = self.speaker_encoder.decode(quantized)[0]
            self._chunked["speaker"], self._chunked["detail"] = key, ChunkedTrunk(self.encoder.detail, vector)
        content = self._chunked["content"](samples, start, total)
        detail = self._chunked["detail"](samples, start, total, source)
        first = max(content.start, detail.start)
        last = min(content.stop, detail.stop)
        rows = [span.rows[first - span.start : last - span.start] for span in (content, detail)]
        return Span(torch.cat(rows, dim=1), first, content.total)


def _parallel_stream(codec: SpeechCodec, speaker: np.ndarray, seed: int) -> DecoderStream:
    return DecoderStream(codec, speaker)
