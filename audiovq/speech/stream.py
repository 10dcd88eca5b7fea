"""Coding and decoding on one fixed grid of packets, whatever sizes the audio arrives in.

Encoding packet i needs some latents' worth of audio on either side::

    audio    ......|....context....|======== packet i ========|....context....|......
    codes                          |======== packet i ========|

Decoding emits what has its full context behind and ahead, so the grid of samples lags the grid of packets::

    codes    ...|context|== lag ==|======== packet i ========|
    samples             |======== piece i =======|  lag left for the next piece

Both grids depend only on positions in the recording, and each step runs alone with the same tensor shapes: the same
audio gives the same bits from a file, a pipe or a batch.
"""

from __future__ import annotations

import numpy as np
import torch

from audiovq.errors import AudioVQError
from audiovq.interfaces import Packet
from audiovq.speech.fast import SpanDecoder


class EncoderStream:
    """One channel of waveform in, packets of codes out. See `SpeechCodec.encoder_stream`."""

    def __init__(self, codec, n_codebooks: int) -> None:
        self.codec, self.n_codebooks = codec, n_codebooks
        #: The quantized speaker vector (S,), known when the first packet is out.
        self.speaker: np.ndarray | None = None
        self._context = codec.encoder.context_frames * codec.hop_length
        self._packet = codec.packet_frames * codec.hop_length
        self._pending: list[np.ndarray] = []
        self._buffer = np.zeros(0, np.float32)
        self._buffer_start = 0  # position of the buffer's first sample in the recording
        self._received = 0
        self._next = 0  # position of the next packet's first sample

    def push(self, samples: np.ndarray) -> list[Packet]:
        """Samples (n,) float32 at the codec's rate -> the packets that are now complete.

        Raises:
            AudioVQError: for samples that are NaN or infinite.
        """
        samples = np.asarray(samples, np.float32).reshape(-1)
        if not np.isfinite(samples).all():
            where = (self._received + int(np.argmin(np.isfinite(samples)))) / self.codec.sample_rate
            raise AudioVQError(f"the audio has NaN or infinite samples, the first at {where:.3f} s; repair it first")
        self._pending.append(samples)
        self._received += len(samples)
        packets = []
        while self._received > self._next + self._packet + self._context:
            packets.append(Packet(self._encode(self._next + self._packet)))
        return packets

    def finish(self) -> list[Packet]:
        """The packets that were waiting for audio behind them; the last may be shorter.

        Raises:
            AudioVQError: when no sample was given.
        """
        if self._received == 0:
            raise AudioVQError("the audio is empty: there is nothing to code")
        packets = []
        while self._next < self._received:
            packets.append(Packet(self._encode(min(self._next + self._packet, self._received))))
        return packets

    @torch.inference_mode()
    def _encode(self, end: int) -> np.ndarray:
        """Codes of the samples from the grid's position to ``end``."""
        codec, hop = self.codec, self.codec.hop_length
        self._buffer = np.concatenate([self._buffer, *self._pending])
        self._pending = []
        first = max(self._next - self._context, 0)
        # Where the recording ends inside this packet's context, the last latent is completed with silence.
        last = min(end + self._context, -(-self._received // hop) * hop)
        audio = np.zeros(last - first, np.float32)
        known = self._buffer[first - self._buffer_start : last - self._buffer_start]
        audio[: len(known)] = known
        waveform = torch.from_numpy(audio)
        if self.speaker is None:
            stretch = waveform[None, None, : min(self._packet, self._received)]
            self.speaker = codec.speaker_encoder.encode(stretch)[0].numpy()
        ends = last >= self._received
        latents = codec.span_encoder()(waveform, first, last if ends else None)
        n_frames = -(-(end - self._next) // hop)
        skip = self._next // hop - latents.start
        wanted = latents.rows[skip : skip + n_frames].t()[None]
        codes = codec.quantizer.encode(wanted, self.n_codebooks)[0].numpy()
        self._next += n_frames * hop
        drop = max(self._next - self._context, 0) - self._buffer_start
        self._buffer, self._buffer_start = self._buffer[drop:], self._buffer_start + drop
        return codes


class DecoderStream:
    """Packets of codes in, one channel of waveform out. See `SpeechCodec.decoder_stream`.

    What is left to the decoders is `_decode`. ``context`` is how many latents on either side they need.
    """

    def __init__(self, codec, context: int) -> None:
        self.codec, self._context = codec, context
        self._latents: torch.Tensor | None = None  # from position self._start on
        self._start = 0
        self._end = 0  # frames received
        self._given = 0  # samples given out

    def push(self, packet: Packet | None, n_frames: int | None = None) -> np.ndarray:
        """The next packet, or None and its number of frames when it is lost -> samples that are ready.

        A lost packet is heard as silence: its latents are zero.
        """
        with torch.inference_mode():
            if packet is not None:
                codes = torch.from_numpy(np.asarray(packet.codes, np.int64))
                latents = self.codec.quantizer.decode(codes[None])
            else:
                if n_frames is None:
                    raise ValueError("say how many frames are lost")
                latents = torch.zeros(1, self.codec.encoder.latent_dim, n_frames)
            return self.push_latents(latents)

    def push_latents(self, latents: torch.Tensor) -> np.ndarray:
        """The next latents (1, C, F) -> samples that are ready."""
        self._latents = latents if self._latents is None else torch.cat([self._latents, latents], dim=-1)
        self._end += latents.shape[-1]
        piece = self._decode(self._end - self._context)
        self._given += len(piece)
        return piece

    def finish(self, n_samples: int) -> np.ndarray:
        """The rest, so that all pieces together have exactly ``n_samples`` samples.

        Raises:
            AudioVQError: when the packets hold less than that.
        """
        hop = self.codec.hop_length
        if not (self._end - 1) * hop < n_samples <= self._end * hop:
            raise AudioVQError(f"{n_samples} samples do not fit {self._end} frames of {hop}: the file is damaged")
        with torch.inference_mode():
            return self._decode(self._end, ended=True)[: n_samples - self._given]

    def _decode(self, until: int, ended: bool = False) -> np.ndarray:
        """Samples that follow those given out, of frames that have their context: those before ``until``."""
        raise NotImplementedError

    def _window(self, first: int, last: int) -> tuple[torch.Tensor, int]:
        """Latents (C, F) of frames ``first`` to ``last`` with their context, and the position of the first of them."""
        assert self._latents is not None
        begin, end = max(first - self._context, 0), min(last + self._context, self._end)
        return self._latents[0, :, begin - self._start : end - self._start], begin

    def _forget(self, until: int) -> None:
        """Drop latents that frames from ``until`` on do not need."""
        assert self._latents is not None
        keep = max(until - self._context, 0)
        self._latents, self._start = self._latents[..., keep - self._start :], keep


class ParallelStream(DecoderStream):
    """The parallel decoder."""

    def __init__(self, codec, speaker: np.ndarray) -> None:
        super().__init__(codec, codec.decoder.context_frames)
        with torch.inference_mode():
            vector = codec.speaker_encoder.decode(torch.from_numpy(np.asarray(speaker, np.int64))[None])
            self._decoder = SpanDecoder(codec.decoder, vector[0])
        self._emitted = 0  # frames decoded

    def _decode(self, until: int, ended: bool = False) -> np.ndarray:
        if until <= self._emitted or self._latents is None:
            return np.zeros(0, np.float32)
        window, first = self._window(self._emitted, until)
        piece = self._decoder(window, first, self._end if ended else None, self._emitted, until).numpy()
        self._emitted = until
        self._forget(until)
        return piece
