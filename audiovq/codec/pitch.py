"""Fundamental frequency at the frame rate: its scale in the file, and the network that measures it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.interfaces import CERTAINTY, LOWEST_HZ, N_VALUES, STEPS_PER_OCTAVE, UNVOICED
from audiovq.nn import ChannelNorm, DilatedResidualUnit


def pitch_to_hz(codes: Tensor) -> Tensor:
    """Pitch codes (any shape, int64) -> fundamental frequency in Hz, float64; 0 where unvoiced."""
    hz = LOWEST_HZ * torch.exp2((codes.double() - 1) / STEPS_PER_OCTAVE)
    return torch.where(codes > UNVOICED, hz, torch.zeros_like(hz))


def hz_to_pitch(hz: Tensor) -> Tensor:
    """Fundamental frequencies in Hz (0: unvoiced) -> pitch codes, int64; frequencies off the scale go to its ends."""
    steps = torch.round(STEPS_PER_OCTAVE * torch.log2(hz.double().clamp_min(1.0) / LOWEST_HZ)).long() + 1
    return torch.where(hz > 0, steps.clamp(1, N_VALUES), torch.zeros_like(steps))


class PitchTracker(nn.Module):
    """A pitch code for each frame of a waveform.

    Each frame's log spectrum and generalised autocorrelation (the inverse transform of the compressed power spectrum;
    Tolonen and Karjalainen 2000, section II), sampled at the lags of the pitch scale, go through dilated residual units
    over time and a classifier over "unvoiced" and the steps of the scale (after Kim et al. 2018, CREPE).

    Args:
        channels, dilations: of the residual units.
        hop_length: samples of a frame.
        sample_rate: Hz.
        n_fft: samples of the analysis window.
        top_hz: the spectrum is used up to this frequency.
    """

    def __init__(
        self,
        channels: int = 192,
        dilations: Sequence[int] = (1, 2, 4, 1),
        hop_length: int = 320,
        sample_rate: int = 16000,
        n_fft: int = 1024,
        top_hz: float = 3000.0,
    ) -> None:
        super().__init__()
        self.hop_length, self.n_fft = hop_length, n_fft
        self.bins = round(top_hz / sample_rate * n_fft)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        lags = sample_rate / pitch_to_hz(torch.arange(1, N_VALUES + 1))
        whole = lags.floor()
        self.register_buffer("lag", whole.long(), persistent=False)
        self.register_buffer("fraction", (lags - whole).float(), persistent=False)
        # Dividing by the window's own autocorrelation takes out that long lags see less of the signal.
        overlap = torch.fft.irfft(torch.fft.rfft(self.window, 2 * n_fft).abs().square())[: n_fft // 2]
        self.register_buffer("overlap", (overlap / overlap[0]).clamp_min(0.1), persistent=False)
        self.entry = nn.Conv1d(self.bins + 2 * N_VALUES, channels, 1)
        self.units = nn.ModuleList(DilatedResidualUnit(channels, dilation=d) for d in dilations)
        self.norm = ChannelNorm(channels)
        self.classify = nn.Conv1d(channels, N_VALUES + 1, 1)
        #: Frames on either side that one pitch code may depend on.
        reach = (n_fft - hop_length) // 2
        self.context_frames = sum(unit.padding for unit in self.units) + -(-reach // hop_length)  # type: ignore[misc]

    window: Tensor
    lag: Tensor
    fraction: Tensor
    overlap: Tensor

    def features(self, waveform: Tensor) -> Tensor:
        """Waveform (B, 1, T), T a multiple of the hop length -> (B, bins + 2 * N_VALUES, F) float32."""
        with torch.autocast(waveform.device.type, enabled=False):
            pad = (self.n_fft - self.hop_length) // 2
            x = F.pad(waveform.float(), (pad, pad)).squeeze(1).unfold(-1, self.n_fft, self.hop_length)
            spectrum = torch.fft.rfft(x * self.window, 2 * self.n_fft)
            power = spectrum.real.square() + spectrum.imag.square()
            level = 0.25 * torch.log(power[..., : 2 * self.bins : 2] + 1e-5) + 0.5
            lags = []
            power = power + 1e-8
            for exponent in (1.0, 0.35):  # logarithm and exponential are several times faster than a power
                compressed = power if exponent == 1.0 else torch.exp(exponent * torch.log(power))
                curve = torch.fft.irfft(compressed)[..., : self.n_fft // 2]
                curve = curve / curve[..., :1] / (self.overlap if exponent == 1.0 else 1.0)
                low, high = curve[..., self.lag], curve[..., self.lag + 1]
                lags.append(low + (high - low) * self.fraction)
            return torch.cat([level, *lags], dim=-1).transpose(1, 2)

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveform (B, 1, T), level-normalised, T a multiple of the hop length -> logits (B, N_VALUES + 1, F)."""
        x = self.entry(self.features(waveform))
        for unit in self.units:
            x = unit(x)
        return self.classify(self.norm(x))

    @torch.no_grad()
    def track(self, waveform: Tensor) -> Tensor:
        """Waveform (B, 1, T), level-normalised -> pitch codes (B, F) int64."""
        return decide(self(waveform))


def decide(logits: Tensor, certainty: float = CERTAINTY) -> Tensor:
    """Logits (B, N_VALUES + 1, F) -> pitch codes (B, F): unvoiced where that is more probable than ``certainty``, else
    the most probable step."""
    probability = torch.softmax(logits.float(), dim=1)
    voiced = probability[:, 1:]
    return torch.where(probability[:, 0] > certainty, 0, voiced.argmax(dim=1) + 1)
