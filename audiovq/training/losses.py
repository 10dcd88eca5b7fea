"""Losses on waveforms, and small discriminators on complex spectrograms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


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


class SpectrogramDiscriminator(nn.Module):
    """Two-dimensional convolutions over one power-compressed complex spectrogram.

    Frequency is strided early: on a CPU the first layers would otherwise cost as much as the whole codec.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int, channels: int) -> None:
        super().__init__()
        self.hop_length = hop_length
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)
        shapes = [  # in, out, (frequency, time) kernel, frequency stride, time dilation
            (3, channels, (7, 3), 4, 1),
            (channels, 2 * channels, (7, 3), 4, 1),
            (2 * channels, 2 * channels, (5, 3), 2, 2),
            (2 * channels, 2 * channels, (3, 3), 1, 4),
        ]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(i, o, kernel, (stride, 1), (kernel[0] // 2, dilation), dilation=(1, dilation)), dim=0)
            for i, o, kernel, stride, dilation in shapes
        )
        self.last = weight_norm(nn.Conv2d(2 * channels, 1, 3, padding=1), dim=0)

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 1, T) -> score map and the inner features."""
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = stft(waveform.squeeze(1).float(), self.window, self.hop_length)
            squared = spectrum.real.square() + spectrum.imag.square() + 1e-6
            scale = squared**-0.35
            level = 0.25 * torch.log(squared) + 1.0
            x = torch.stack([spectrum.real * scale, spectrum.imag * scale, level], dim=1)
        x = x.contiguous(memory_format=torch.channels_last)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.last(x), features


class MultiResolutionDiscriminator(nn.Module):
    """One `SpectrogramDiscriminator` per resolution."""

    def __init__(
        self,
        n_ffts: Sequence[int] = (1024, 512, 256),
        hop_lengths: Sequence[int] = (256, 160, 80),
        channels: int = 16,
    ) -> None:
        super().__init__()
        self.resolutions = nn.ModuleList(
            SpectrogramDiscriminator(n, hop, channels) for n, hop in zip(n_ffts, hop_lengths, strict=True)
        )

    def forward(self, waveform: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """(B, 1, T) -> one score map per resolution, and each one's inner features."""
        scores, features = [], []
        for resolution in self.resolutions:
            score, inner = resolution(waveform)
            scores.append(score)
            features.append(inner)
        return scores, features
