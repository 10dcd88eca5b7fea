"""A codec without a network, for tests of everything around it: its codes are a checksum of the samples.

It keeps the contract of `SpeechCodec`'s streams: packets come out only when some audio behind them has been seen,
decoding lags by a frame, and any changed sample changes the codes.
"""

from __future__ import annotations

import zlib

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.interfaces import CodecShape
from tests.packets import PITCH, packet_of


class FakeCodec:
    sample_rate, hop_length, packet_frames = 16000, 320, 20
    n_codebooks, codebook_size, default_n_codebooks = 8, 1024, 4
    frame_rate = 50.0
    bitrates = tuple(0.5 * k for k in range(1, 9))
    conversion_codebooks = 4
    decoders = ("parallel",)
    n_speaker_levels, speaker_bits = 16, 4
    folder = None
    shape = CodecShape(16000, 320, 4, 1, 1, 1, 1, 80, 4, 5, speaker_dim=32, speaker_levels=16)

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.model_hash = zlib.crc32(name.encode()).to_bytes(4, "big")

    def to(self, device):
        """Nothing to move."""
        return self

    def encoder_stream(self, n_codebooks=None, packet_frames=None, speaker=None, lookahead=None):
        sizes = (n_codebooks or self.default_n_codebooks, packet_frames or self.packet_frames)
        return FakeEncoderStream(self, *sizes, speaker)

    def speaker_levels(self, samples):
        """Hears the loudness and no more."""
        return np.full(32, 15 * np.abs(samples).mean().clip(0, 1), np.float64)

    def decoder_stream(self, speaker, decoder="parallel", lookahead=None):
        if decoder != "parallel":
            raise AudioVQError(f"model {self.name} has no decoder {decoder!r}; it has: parallel")
        return FakeDecoderStream(self, speaker)


class FakeEncoderStream:
    def __init__(self, codec, n_codebooks, packet_frames, speaker) -> None:
        self.codec, self.n_codebooks, self.packet_frames, self.speaker = codec, n_codebooks, packet_frames, speaker
        self._samples, self._pieces, self._n = np.zeros(0, np.float32), [], 0

    def push(self, samples):
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        self._pieces.append(samples)
        self._n += len(samples)
        size = self.packet_frames * self.codec.hop_length
        if self._n <= size + 960:
            return []
        self._samples, self._pieces = np.concatenate([self._samples, *self._pieces]), []
        packets = []
        while len(self._samples) > size + 960:
            packets.append(self._code(self._samples[:size]))
            self._samples = self._samples[size:]
            self._n -= size
        return packets

    def finish(self):
        self._samples = np.concatenate([self._samples, *self._pieces])
        size = self.packet_frames * self.codec.hop_length
        return [self._code(self._samples[i : i + size]) for i in range(0, len(self._samples), size)]

    def _code(self, samples):
        if self.speaker is None:
            self.speaker = _digits(samples, 32, 16)
        hop = self.codec.hop_length
        frames = [samples[i : i + hop] for i in range(0, len(samples), hop)]
        return packet_of(np.stack([_digits(frame, self.n_codebooks, 1024) for frame in frames], axis=1))


class FakeDecoderStream:
    """A frame's sound is a ramp set by codes, pitch and speaker; a lost frame is zero. One frame of lag."""

    def __init__(self, codec, speaker) -> None:
        self.hop = codec.hop_length
        self._level = (1 + float(np.sum(speaker))) / 1000
        self._frame = None
        self._given = self._frames = 0

    def push(self, packet, n_frames=None):
        frames = np.zeros((n_frames, self.hop)) if packet is None else self._sound(packet)
        self._frames += len(frames)
        whole = frames if self._frame is None else np.concatenate([self._frame, frames])
        self._frame = whole[-1:]
        self._given += (len(whole) - 1) * self.hop
        return whole[:-1].reshape(-1).astype(np.float32)

    def finish(self, n_samples):
        assert (self._frames - 1) * self.hop < n_samples <= self._frames * self.hop
        return self._frame.reshape(-1)[: n_samples - self._given].astype(np.float32)

    def _sound(self, packet):
        codes, pitch = packet.codes, (packet.pitch - PITCH)[:, None] / 5000
        value = (codes * np.arange(1, len(codes) + 1)[:, None]).sum(0) % 997 / 2000
        return value[:, None] * np.linspace(-1, 1, self.hop) + self._level + pitch


def _digits(samples, n, base):
    seed = zlib.crc32(np.ascontiguousarray(samples, np.float32).tobytes())
    return np.random.default_rng(seed).integers(0, base, n)
