"""Does it keep the melody? A loss on fundamental frequency, straight from the waveform."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_N_FFT, _WINDOW, _HOP = 2048, 1024, 320
_LOWEST, _HIGHEST = 60.0, 480.0  # Hz
_PER_SEMITONE = 2
_SHARPNESS = 20.0
_OCTAVE_COST = 0.1  # of periodicity: a period's multiples fit as well as itself
_VOICED = 0.5  # periodicity from which a frame counts
_QUIET = 1e-3  # of the loudest frame's power; quieter ones do not count


class MelodyLoss(nn.Module):
    """Cross-entropy between where the fundamental frequency may lie in the one and in the other waveform.

    For each frame of 64 ms, a softmax over the normalised autocorrelation at periods half a semitone apart; frames of
    the target that are not periodic do not count. The autocorrelation has a gradient everywhere, which a pitch tracker
    does not have, and no network has to be trained first (as for the F0 consistency of Li et al. 2021, StarGANv2-VC).
    """

    window: Tensor
    lowpass: Tensor
    to_grid: Tensor
    cost: Tensor

    def __init__(self, sample_rate: int = 16000, largest_shift: float = 16.0) -> None:
        super().__init__()
        padded = torch.zeros(_N_FFT)
        padded[(_N_FFT - _WINDOW) // 2 : (_N_FFT + _WINDOW) // 2] = torch.hann_window(_WINDOW)
        hertz = torch.arange(_N_FFT // 2 + 1) * sample_rate / _N_FFT
        # Over 1 kHz partials say more about the place of the maximum than is asked for, and make it too narrow to find.
        lowpass = ((1200 - hertz) / 400).clamp(0, 1)
        n_bins = round(12 * _PER_SEMITONE * math.log2(_HIGHEST / _LOWEST)) + 1
        pitch = _LOWEST * 2 ** (torch.arange(n_bins) / (12 * _PER_SEMITONE))
        lag = sample_rate / pitch
        n_lags = int(lag.max()) + 2
        below = lag.floor().long()
        share = lag - below
        to_grid = torch.zeros(n_lags, n_bins)
        to_grid[below, torch.arange(n_bins)] = 1 - share
        to_grid[below + 1, torch.arange(n_bins)] += share
        own = torch.fft.irfft(torch.fft.rfft(padded).abs().square())[:n_lags]
        self.register_buffer("window", padded, persistent=False)
        self.register_buffer("lowpass", lowpass, persistent=False)
        self.register_buffer("to_grid", to_grid / (own / own[0])[:, None], persistent=False)
        self.register_buffer("cost", _OCTAVE_COST * torch.log2(_HIGHEST / pitch), persistent=False)
        self.largest_shift = round(largest_shift * _PER_SEMITONE)

    def periodicity(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) -> autocorrelation at each pitch (B, frames, pitches), at most about 1, and power (B, frames)."""
        spectrum = torch.stft(
            waveform, _N_FFT, _HOP, window=self.window, center=True, pad_mode="constant", return_complex=True
        )
        power = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2) * self.lowpass
        lags = torch.fft.irfft(power)[..., : len(self.to_grid)]
        size = lags[..., :1] + 1e-6
        return (lags / size) @ self.to_grid, size.squeeze(-1)

    def forward(self, decoded: Tensor, target: Tensor, transposed: bool = False) -> Tensor:
        """Two waveforms (B, 1, T) -> scalar, in nats.

        Args:
            transposed: whether an item's whole melody may lie higher or lower: it counts at the shift that fits best.
        """
        found, _ = self.periodicity(decoded.squeeze(1).float())
        estimate = torch.log_softmax(_SHARPNESS * (found - self.cost), dim=2)
        with torch.no_grad():
            wanted, power = self.periodicity(target.squeeze(1).float())
            reference = torch.softmax(_SHARPNESS * (wanted - self.cost), dim=2)
            weight = ((wanted.amax(2) - _VOICED) / (1 - _VOICED)).clamp(0, 1)
            weight = weight * (power > _QUIET * power.amax(1, keepdim=True))
            reference = reference * weight[..., None]
            if transposed:
                reference = self.moved(reference, estimate)
        return -(reference * estimate).sum() / reference.sum().clamp_min(1e-3)

    def moved(self, reference: Tensor, estimate: Tensor) -> Tensor:
        """Each item's reference (B, frames, pitches) at the shift where the estimate fits it best."""
        reach, n_bins = self.largest_shift, reference.shape[2]
        padded = F.pad(reference, (reach, reach))
        shifts = padded.unfold(2, n_bins, 1)  # (B, frames, shifts, pitches)
        fit = torch.einsum("bfsp,bfp->bs", shifts, estimate.exp())
        best = fit.argmax(1)
        return shifts[torch.arange(len(best), device=best.device), :, best]
