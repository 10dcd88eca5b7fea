"""Latents -> waveform, all samples at once: frame-rate backbone and inverse-STFT head (after Siuzdak 2023, Vocos)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from audiovq.speech.backbone import Backbone


class InverseSTFTHead(nn.Module):
    """Features to log-magnitudes and phases of short frames, then overlap-add (Siuzdak 2023, section 3.2).

    Frames are centred on the middle of their hop. The Hann windows of analysis and synthesis add up to a constant at
    an overlap of four, so no per-sample normalisation is needed and output never depends on where a chunk begins.
    """

    window: Tensor

    def __init__(self, channels: int, hop_length: int, overlap: int = 4) -> None:
        super().__init__()
        if overlap < 3:
            raise ValueError(f"squared Hann windows add up to a constant from an overlap of 3 on, got {overlap}")
        self.hop_length, self.overlap = hop_length, overlap
        self.n_fft = hop_length * overlap
        self.bins = self.n_fft // 2 + 1
        if (self.n_fft - hop_length) % 2:
            raise ValueError(f"n_fft - hop_length must be even, got {self.n_fft} and {hop_length}")
        self.project = nn.Conv1d(channels, 3 * self.bins, 1)
        window = torch.hann_window(self.n_fft)
        self.register_buffer("window", window / (window.square().sum() / hop_length), persistent=False)
        with torch.no_grad():
            self.project.weight.mul_(0.5)
            nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F) -> (B, 1, F * hop_length)."""
        samples = self.add(self.frames(self.project(x)))
        trim = (self.n_fft - self.hop_length) // 2
        return samples[:, None, trim : trim + x.shape[-1] * self.hop_length]

    def frames(self, spectrum: Tensor) -> Tensor:
        """Log-gains, real and imaginary parts (B, 3 * bins, F) -> windowed frames (B, F, n_fft)."""
        with torch.autocast(spectrum.device.type, enabled=False):
            gain, real, imaginary = spectrum.float().transpose(1, 2).chunk(3, dim=2)
            gain = torch.exp(gain.clamp(max=6.0))
            return torch.fft.irfft(torch.complex(gain * real, gain * imaginary), n=self.n_fft, dim=2) * self.window

    def add(self, frames: Tensor) -> Tensor:
        """Overlap-add: (B, F, n_fft) -> (B, (F - 1) * hop_length + n_fft)."""
        batch, n_frames, _ = frames.shape
        pieces = frames.view(batch, n_frames, self.overlap, self.hop_length)
        total = frames.new_zeros(batch, n_frames + self.overlap - 1, self.hop_length)
        for i in range(self.overlap):
            total[:, i : i + n_frames] += pieces[:, :, i]
        return total.flatten(1)


class FrameNoise(nn.Module):
    """Noise added to features, the same at the same place of every recording.

    Frames that differ in nothing repeat at the frame rate, which is heard as a comb of tones where speech has noise.
    Noise to shape takes the place of the missing phases. It is a fixed table over frame indices, so that decoding
    stays deterministic; in training every item starts somewhere else in it.
    """

    table: Tensor

    def __init__(self, channels: int, n_sources: int = 8, period: int = 8192) -> None:
        super().__init__()
        # RandomState's stream is frozen: the table is the same on every machine and with every version.
        table = np.random.RandomState(0).standard_normal((period, n_sources))
        self.register_buffer("table", torch.from_numpy(table).float(), persistent=False)
        self.mix = nn.Linear(n_sources, channels, bias=False)
        nn.init.zeros_(self.mix.weight)

    def at(self, start: Tensor, n_frames: int) -> Tensor:
        """Frames from ``start`` (B,) on -> (B, n_frames, channels)."""
        index = start[:, None] + torch.arange(n_frames, device=start.device)
        return self.mix(self.table[index % len(self.table)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        start = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        if self.training:
            start = torch.randint(len(self.table), (len(x),), device=x.device)
        return x + self.at(start, x.shape[-1]).transpose(1, 2).to(x.dtype)


class ParallelDecoder(Backbone):
    """Backbone at the latents' rate, then stages at higher rates, then the inverse-STFT head.

    Every residual unit is modulated by the speaker vector; the last stage gets noise to shape.

    Args:
        latent_dim, condition_dim, channels, dilations, upsample: see `Backbone`.
        hop_length: samples per latent.
        overlap: frames that cover one sample in the head.
    """

    noise: FrameNoise

    def __init__(
        self,
        latent_dim: int,
        condition_dim: int,
        channels: Sequence[int],
        dilations: Sequence[Sequence[int]],
        upsample: Sequence[int],
        hop_length: int,
        overlap: int = 4,
    ) -> None:
        super().__init__(latent_dim, condition_dim, channels, dilations, upsample)
        self.hop_length = hop_length
        if hop_length % self.rate:
            raise ValueError(f"the product of upsample, {self.rate}, must divide the hop length {hop_length}")
        self.head = InverseSTFTHead(channels[-1], hop_length // self.rate, overlap)
        self.noise = FrameNoise(channels[-1])
        #: Latents on either side that one output sample may depend on.
        self.context_frames = int(-(-(self.reach + overlap / self.rate) // 1))

    def forward(self, latents: Tensor, condition: Tensor) -> Tensor:
        """Latents (B, C, F), speaker vector (B, S) -> waveform (B, 1, F * hop_length)."""
        return self.head(self.features(latents, condition))
