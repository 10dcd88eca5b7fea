"""Augmentations of whole batches, on any device: another vocal tract, another microphone, noise, a narrower band."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpectralAugmentation(nn.Module):
    """Changes of timbre and recording that keep words, timing and pitch.

    Formants are scaled by warping the smooth part of each spectrum (its low quefrencies), while the harmonics stay
    where they are, and a smooth random equalisation is added (after Choi et al. 2021, NANSY, section 3.1, without its
    change of pitch). The same draw is applied to several stretches of one speaker: together they are a new speaker.

    Args:
        formant: largest factor of the formants, in either direction.
        eq_db: standard deviation of the equalisation at its eight points.
        n_fft: samples of a window; the hop is a quarter.
        quefrency: samples of the cepstrum that count as smooth.
    """

    window: Tensor

    def __init__(self, formant: float = 1.22, eq_db: float = 4.0, n_fft: int = 512, quefrency: int = 32) -> None:
        super().__init__()
        self.formant, self.eq_db, self.n_fft, self.quefrency = formant, eq_db, n_fft, quefrency
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Formant factors (n,) and equalisation in dB (n, 8)."""
        factor = torch.exp(math.log(self.formant) * (2 * torch.rand(n, device=device) - 1))
        return factor, self.eq_db * torch.randn(n, 8, device=device)

    def forward(self, waveform: Tensor, factor: Tensor, eq: Tensor) -> Tensor:
        """Waveforms (B, T), with a draw for each -> (B, T) of the same energy."""
        spectrum = torch.stft(waveform, self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)
        bins = spectrum.shape[1]
        log_size = torch.log(spectrum.abs() + 1e-5)
        cepstrum = torch.fft.irfft(log_size, dim=1)
        keep = torch.zeros(self.n_fft, device=waveform.device)
        keep[: self.quefrency] = 1.0
        keep[-self.quefrency + 1 :] = 1.0
        envelope = torch.fft.rfft(cepstrum * keep[:, None], dim=1).real  # (B, bins, frames)
        place = (torch.arange(bins, device=waveform.device) / factor[:, None]).clamp(max=bins - 1.001)
        low = place.floor().long()
        weight = (place - low)[..., None]
        index = low[..., None].expand(-1, -1, envelope.shape[2])
        warped = envelope.gather(1, index) * (1 - weight) + envelope.gather(1, index + 1) * weight
        curve = F.interpolate(eq[:, None], size=bins, mode="linear", align_corners=True)[:, 0]
        gain = (warped - envelope).clamp(-3.5, 3.5) + curve[..., None] * (math.log(10) / 20)
        changed = self.inverse(spectrum * torch.exp(gain), waveform.shape[-1])
        energy = waveform.square().sum(-1, keepdim=True) / changed.square().sum(-1, keepdim=True).clamp_min(1e-8)
        return changed * energy.sqrt()

    def inverse(self, spectrum: Tensor, length: int) -> Tensor:
        """Inverse of the transform: ``torch.istft``, or on other devices than the CPU the same without its check of the
        window, for which the host would have to wait."""
        hop = self.n_fft // 4
        if spectrum.device.type == "cpu":
            return torch.istft(spectrum, self.n_fft, hop, window=self.window, length=length)
        return self.overlap_add(spectrum, length)

    def overlap_add(self, spectrum: Tensor, length: int) -> Tensor:
        """Spectra (B, bins, frames) -> (B, length)."""
        hop = self.n_fft // 4
        frames = torch.fft.irfft(spectrum.transpose(1, 2), n=self.n_fft) * self.window
        pieces = frames.view(len(frames), -1, 4, hop)
        n_frames = pieces.shape[1]
        total, weight = pieces.new_zeros(len(frames), n_frames + 3, hop), pieces.new_zeros(n_frames + 3, hop)
        squares = self.window.square().view(4, hop)
        for i in range(4):
            total[:, i : i + n_frames] += pieces[:, :, i]
            weight[i : i + n_frames] += squares[i]
        begin = self.n_fft // 2
        return total.flatten(1)[:, begin : begin + length] / weight.flatten()[begin : begin + length]


def degrade(waveform: Tensor, others: Tensor, snr_db: Tensor, cutoff: Tensor) -> Tensor:
    """A worse recording of the same: coloured noise or other speakers behind, and a narrower band.

    Args:
        waveform: (B, T).
        others: (B, T) other recordings; the louder their share in the noise, the more it is babble.
        snr_db: (B,) signal-to-noise ratio.
        cutoff: (B,) Hz from which a low-pass falls off; 8000 and above does nothing.
    """
    n, length = waveform.shape
    slope = torch.rand(n, 1, device=waveform.device) * 1.5
    bins = length // 2 + 1
    frequency = torch.linspace(0, 8000, bins, device=waveform.device)
    noise = torch.fft.rfft(torch.randn_like(waveform)) * (100 / (100 + frequency)) ** slope
    noise = torch.fft.irfft(noise, n=length)
    noise = noise / noise.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8)
    babble = others / others.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-4)
    share = (torch.rand(n, 1, device=waveform.device) < 0.3).float()
    noise = noise * (1 - share) + babble * share
    size = waveform.square().mean(-1, keepdim=True).sqrt() * 10 ** (-snr_db[:, None] / 20)
    spectrum = torch.fft.rfft(waveform + noise * size)
    low_pass = torch.sigmoid((cutoff[:, None] - frequency) / 150)
    low_pass = torch.where(cutoff[:, None] >= 8000, torch.ones_like(low_pass), low_pass)
    return torch.fft.irfft(spectrum * low_pass, n=length)
