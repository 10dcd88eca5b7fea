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


class MultiResolutionMelLoss(nn.Module):
    """L1 between log-mel magnitudes at several window lengths (Kumar et al. 2023, section 3.4; Yamamoto et al. 2020).

    Args:
        n_ffts: window lengths in samples; the hop is a quarter of each.
        n_mels: mel bands for each.
        floor: magnitudes below are not told apart (1e-4 of a unit-energy window's output).
    """

    def __init__(
        self,
        n_ffts: Sequence[int] = (256, 512, 1024, 2048),
        n_mels: Sequence[int] = (32, 56, 80, 128),
        sample_rate: int = 16000,
        floor: float = 1e-3,
    ) -> None:
        super().__init__()
        import librosa

        self.floor = floor
        self.n_ffts = list(n_ffts)
        for i, (n_fft, mels) in enumerate(zip(n_ffts, n_mels, strict=True)):
            window = torch.hann_window(n_fft)
            self.register_buffer(f"window{i}", window / window.square().sum().sqrt(), persistent=False)
            mel = torch.from_numpy(librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=mels, norm=None))
            self.register_buffer(f"mel{i}", mel / mel.sum(1, keepdim=True).clamp_min(1.0), persistent=False)

    def log_mel(self, waveform: Tensor, i: int) -> Tensor:
        """(B, T) -> (B, mels, frames), natural logarithm."""
        spectrum = stft(waveform, getattr(self, f"window{i}"), self.n_ffts[i] // 4)
        # The square root of the mean power in a band, floored inside so that its gradient stays bounded.
        power = torch.matmul(getattr(self, f"mel{i}"), spectrum.real.square() + spectrum.imag.square())
        return 0.5 * torch.log(power + self.floor**2)

    def forward(self, decoded: Tensor, target: Tensor) -> Tensor:
        """Two waveforms (B, 1, T) -> scalar."""
        decoded, target = decoded.squeeze(1).float(), target.squeeze(1).float()
        total = decoded.new_zeros(())
        for i in range(len(self.n_ffts)):
            with torch.no_grad():
                reference = self.log_mel(target, i)
            total = total + F.l1_loss(self.log_mel(decoded, i), reference)
        return total / len(self.n_ffts)


class ComplexSTFTLoss(nn.Module):
    """L1 between power-compressed complex spectra, ``|S|^p e^{j phase}`` (after Braun and Tashev 2020).

    Mel losses ignore phase, so they ask for nothing that finer codebooks could tell; this one does. Compression lets
    the quiet partials count.
    """

    def __init__(self, n_ffts: Sequence[int] = (256, 640), power: float = 0.3) -> None:
        super().__init__()
        self.n_ffts, self.power = list(n_ffts), power
        for i, n_fft in enumerate(n_ffts):
            window = torch.hann_window(n_fft)
            self.register_buffer(f"window{i}", window / window.square().sum().sqrt(), persistent=False)

    def compress(self, waveform: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T) -> real part, imaginary part and magnitude after compression."""
        spectrum = stft(waveform, getattr(self, f"window{i}"), self.n_ffts[i] // 4)
        real, imaginary = spectrum.real, spectrum.imag
        squared = real.square() + imaginary.square() + 1e-6
        scale = squared ** ((self.power - 1) / 2)
        return real * scale, imaginary * scale, squared ** (self.power / 2)

    def forward(self, decoded: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Two waveforms (B, 1, T) -> complex distance and magnitude distance, scalars."""
        decoded, target = decoded.squeeze(1).float(), target.squeeze(1).float()
        phase_aware, magnitude = decoded.new_zeros(()), decoded.new_zeros(())
        for i in range(len(self.n_ffts)):
            with torch.no_grad():
                reference = self.compress(target, i)
            estimate = self.compress(decoded, i)
            distance = torch.sqrt((estimate[0] - reference[0]) ** 2 + (estimate[1] - reference[1]) ** 2 + 1e-6)
            phase_aware = phase_aware + distance.mean()
            magnitude = magnitude + F.l1_loss(estimate[2], reference[2])
        return phase_aware / len(self.n_ffts), magnitude / len(self.n_ffts)


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
