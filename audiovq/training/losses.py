"""Reconstruction losses on spectra: how far a decoded waveform is from the one that was coded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def stft(waveform: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """(B, T) -> complex (B, bins, frames), unit-energy window, centred."""
    n_fft = window.shape[0]
    return torch.stft(waveform, n_fft, hop_length, window=window, center=True, pad_mode="constant", return_complex=True)


class EnvelopeCorrelationLoss(nn.Module):
    """One minus the correlation of band envelopes over short stretches: what intelligibility rests on.

    The measure of Taal et al. (2011, eqs. 3 to 5): third-octave bands from 150 Hz, stretches of 384 ms, the decoded
    envelope scaled to the target's energy and clipped at -15 dB signal to distortion. Instead of dropping silent
    frames, a stretch counts by its share of frames within 40 dB of the loudest. As a loss: Fu et al. (2018).
    """

    BANDS, LOWEST, FRAMES, CLIP, RANGE = 15, 150.0, 30, 10 ** (15 / 20), 1e-4

    def __init__(self, sample_rate: int = 16000) -> None:
        super().__init__()
        window = round(0.0256 * sample_rate)
        self.n_fft, self.hop_length = 1 << (window - 1).bit_length(), window // 2
        centres = self.LOWEST * 2 ** (torch.arange(self.BANDS) / 3)
        bins = torch.arange(self.n_fft // 2 + 1) * sample_rate / self.n_fft
        bands = (bins >= centres[:, None] * 2 ** (-1 / 6)) & (bins < centres[:, None] * 2 ** (1 / 6))
        self.register_buffer("bands", bands.float(), persistent=False)
        padded = torch.zeros(self.n_fft)
        start = (self.n_fft - window) // 2
        padded[start : start + window] = torch.hann_window(window)
        self.register_buffer("window", padded / padded.square().sum().sqrt(), persistent=False)

    bands: Tensor
    window: Tensor

    def envelopes(self, waveform: Tensor) -> Tensor:
        """(B, T) -> (B, bands, frames)."""
        spectrum = stft(waveform, self.window, self.hop_length)
        return torch.sqrt(torch.matmul(self.bands, spectrum.real.square() + spectrum.imag.square()) + 1e-8)

    def forward(self, decoded: Tensor, target: Tensor) -> Tensor:
        """Two waveforms (B, 1, T) -> scalar; 0 where there is less than one stretch of 384 ms."""
        estimate = self.envelopes(decoded.squeeze(1).float())
        with torch.no_grad():
            reference = self.envelopes(target.squeeze(1).float())
            if reference.shape[-1] < self.FRAMES:
                return decoded.new_zeros(())
            power = reference.square().sum(1)
            heard = (power > self.RANGE * power.amax(1, keepdim=True)).float()
            share = heard.unfold(1, self.FRAMES, 1).mean(2)[:, None]  # (B, 1, stretches)
            x = reference.unfold(2, self.FRAMES, 1)  # (B, bands, stretches, frames)
            x_norm = x.norm(dim=3, keepdim=True)
            x_centred = F.normalize(x - x.mean(3, keepdim=True), dim=3)
        y = estimate.unfold(2, self.FRAMES, 1)
        y = torch.minimum(y * (x_norm / y.norm(dim=3, keepdim=True)), x * (1 + self.CLIP))
        y_centred = F.normalize(y - y.mean(3, keepdim=True), dim=3, eps=1e-4)
        correlation = (x_centred * y_centred).sum(3)
        return 1 - (correlation * share).sum() / (share.sum() * self.BANDS).clamp_min(1e-3)


def relative_waveform_loss(decoded: Tensor, target: Tensor) -> Tensor:
    """L1 between waveforms (B, 1, T), relative to the target's mean size.

    Without it the phase is not found: from a random phase, the gradient of a compressed complex spectrum only asks for
    less of everything, while the strong low partials of a waveform pull towards their place.
    """
    decoded, target = decoded.float(), target.float()
    size = target.abs().mean(dim=(1, 2), keepdim=True).clamp_min(2e-3)
    return ((decoded - target).abs() / size).mean()


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Least-squares loss of the discriminators (Mao et al. 2017), averaged over them."""
    terms = [((1 - r.float()) ** 2).mean() + (f.float() ** 2).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """Least-squares loss of the decoder against the discriminators."""
    return torch.stack([((1 - f.float()) ** 2).mean() for f in fake]).mean()


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """L1 between the discriminators' inner features, relative to their mean size on real speech."""
    terms = []
    for real_layers, fake_layers in zip(real, fake, strict=True):
        for r, f in zip(real_layers, fake_layers, strict=True):
            r = r.detach().float()
            terms.append((f.float() - r).abs().mean() / r.abs().mean().clamp_min(1e-3))
    return torch.stack(terms).mean()
