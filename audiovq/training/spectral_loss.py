"""Spectral distances that share their transforms: log-mel, compressed magnitude, and compressed complex spectrum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.training.disturbance import Disturbance
from audiovq.training.losses import stft

MELS = {256: 32, 512: 56, 1024: 80, 2048: 128}
"""Mel bands by window length (Kumar et al. 2023, section 3.4)."""


class SpectralLoss(nn.Module):
    """Distances between decoded and target waveforms at several window lengths.

    * ``mel``: L1 between log-mel magnitudes (Yamamoto et al. 2020; Kumar et al. 2023, section 3.4).
    * ``magnitude``: L1 between power-compressed magnitudes.
    * ``complex``: distance between power-compressed complex spectra (Braun and Tashev 2020), of some items only: the
      phase of an item is worth asking for where its codes can hold it.
    * ``harmonics``: the same for the lowest harmonics of voiced frames alone, whose phase few bits can hold: it moves
      slowly against the harmonic source.
    * ``disturbance``: of the loudness density, see `Disturbance`.

    Args:
        n_ffts: window lengths in samples; the hop is a quarter of each.
        phase_n_ffts: those for ``complex``.
        heard_n_fft: the one for ``harmonics`` and ``disturbance``.
        lowest_hz: upper end of the band of ``harmonics``.
        power: of the compression.
        floor: magnitudes below are not told apart.
    """

    def __init__(
        self,
        n_ffts: tuple[int, ...] = (128, 256, 512, 1024, 2048),
        phase_n_ffts: tuple[int, ...] = (256, 512),
        heard_n_fft: int = 512,
        lowest_hz: float = 600.0,
        power: float = 0.3,
        floor: float = 1e-3,
        sample_rate: int = 16000,
    ) -> None:
        super().__init__()
        import librosa

        self.n_ffts, self.phase_n_ffts, self.power, self.floor = n_ffts, phase_n_ffts, power, floor
        self.heard_n_fft, self.low_bins = heard_n_fft, round(lowest_hz * heard_n_fft / sample_rate)
        self.disturbance = Disturbance(heard_n_fft, sample_rate=sample_rate)
        for n_fft in n_ffts:
            window = torch.hann_window(n_fft)
            self.register_buffer(f"window{n_fft}", window / window.square().sum().sqrt(), persistent=False)
            if n_fft in MELS:
                mel = torch.from_numpy(librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=MELS[n_fft], norm=None))
                self.register_buffer(f"mel{n_fft}", mel / mel.sum(1, keepdim=True).clamp_min(1.0), persistent=False)

    def transform(self, waveform: Tensor, n_fft: int) -> tuple[Tensor, Tensor]:
        """Spectrum (B, bins, frames) and its squared magnitude."""
        spectrum = stft(waveform, getattr(self, f"window{n_fft}"), n_fft // 4)
        return spectrum, spectrum.real.square() + spectrum.imag.square()

    def log_mel(self, squared: Tensor, n_fft: int) -> Tensor:
        """Squared magnitudes -> natural logarithm of the magnitude in each band."""
        return 0.5 * torch.log(torch.matmul(getattr(self, f"mel{n_fft}"), squared) + self.floor**2)

    def compress(self, squared: Tensor) -> Tensor:
        """Squared magnitudes -> compressed ones. Logarithm and exponential are several times faster than a power."""
        return torch.exp((self.power / 2) * torch.log(squared + 1e-6))

    def forward(
        self,
        decoded: Tensor,
        target: Tensor,
        phase: Tensor | None = None,
        low: Tensor | None = None,
        voiced: Tensor | None = None,
    ) -> Mapping[str, Tensor]:
        """All terms, scalars.

        Args:
            decoded, target: waveforms (B, T).
            phase: (P,) indices of the items whose complex spectrum counts; None: of none.
            low: (L,) indices of the items whose lowest harmonics count; None: of none.
            voiced: (B, F) bool, frames of the whole length T; needed with ``low``.
        """
        names = ("mel", "magnitude", "complex", "harmonics", "disturbance")
        terms = {name: decoded.new_zeros(()) for name in names}
        for n_fft in self.n_ffts:
            spectrum, squared = self.transform(decoded, n_fft)
            with torch.no_grad():
                reference, reference_squared = self.transform(target, n_fft)
                wanted = self.compress(reference_squared)
            compressed = self.compress(squared)
            terms["magnitude"] = terms["magnitude"] + F.l1_loss(compressed, wanted) / len(self.n_ffts)
            if n_fft in MELS:
                with torch.no_grad():
                    mel = self.log_mel(reference_squared, n_fft)
                terms["mel"] = terms["mel"] + F.l1_loss(self.log_mel(squared, n_fft), mel) / len(MELS)
            if n_fft in self.phase_n_ffts and phase is not None and len(phase):
                scale = compressed[phase] / (squared[phase] + 1e-6).sqrt()
                wanted_scale = wanted[phase] / (reference_squared[phase] + 1e-6).sqrt()
                real = spectrum.real[phase] * scale - reference.real[phase] * wanted_scale
                imaginary = spectrum.imag[phase] * scale - reference.imag[phase] * wanted_scale
                distance = torch.sqrt(real.square() + imaginary.square() + 1e-6).mean()
                terms["complex"] = terms["complex"] + distance / len(self.phase_n_ffts)
            if n_fft == self.heard_n_fft:
                terms["disturbance"] = self.disturbance(squared, reference_squared)
                if low is not None and voiced is not None and len(low):
                    terms["harmonics"] = self.harmonics(spectrum[low], reference[low], voiced[low])
        return terms

    def harmonics(self, spectrum: Tensor, reference: Tensor, voiced: Tensor) -> Tensor:
        """Distance of compressed complex spectra (L, bins, frames) in the lowest bins of voiced frames."""
        spectrum, reference = spectrum[:, : self.low_bins], reference[:, : self.low_bins]
        parts = []
        for complex_spectrum in (spectrum, reference):
            squared = complex_spectrum.real.square() + complex_spectrum.imag.square()
            parts.append(complex_spectrum * (self.compress(squared) / (squared + 1e-6).sqrt()))
        difference = parts[0] - parts[1]
        distance = torch.sqrt(difference.real.square() + difference.imag.square() + 1e-6).mean(1)
        place = torch.arange(distance.shape[1], device=voiced.device) * voiced.shape[1] // distance.shape[1]
        heard = voiced[:, place].float()
        return (distance * heard).sum() / heard.sum().clamp_min(1)
