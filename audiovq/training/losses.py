"""Losses: spectral distances that share their transforms, disturbance of loudness, discriminators, speaker means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
            weight_norm(nn.Conv2d(i, o, kernel, (stride, 1), (kernel[0] // 2, dilation), dilation=(1, dilation)))
            for i, o, kernel, stride, dilation in shapes
        )
        self.last = weight_norm(nn.Conv2d(2 * channels, 1, 3, padding=1))

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
        self, n_ffts: Sequence[int] = (1024, 512, 256), hop_lengths: Sequence[int] = (256, 160, 80), channels: int = 16
    ) -> None:
        super().__init__()
        self.resolutions = nn.ModuleList(
            SpectrogramDiscriminator(n, hop, channels) for n, hop in zip(n_ffts, hop_lengths, strict=True)
        )

    def forward(self, waveform: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """(B, 1, T) -> one score map per resolution, and each one's inner features."""
        scores, features = zip(*(resolution(waveform) for resolution in self.resolutions), strict=True)
        return list(scores), list(features)


def bark(hz: Tensor) -> Tensor:
    """Hz -> Bark (Traunmüller 1990)."""
    return 26.81 * hz / (1960 + hz) - 0.53


def threshold_db(hz: Tensor) -> Tensor:
    """Hearing threshold in dB SPL (Terhardt 1979)."""
    khz = hz / 1000
    return 3.64 * khz**-0.8 - 6.5 * torch.exp(-0.6 * (khz - 3.3).square()) + 1e-3 * khz**4


class Disturbance(nn.Module):
    """Symmetric and asymmetric disturbance of loudness densities, per frame, as in P.862 (Rix et al. 2001).

    What differs from the standard, for the sake of gradients: no time alignment, no equalisation, one scale for both
    signals, and means over frames instead of norms that the worst frames dominate (as in Martín-Doñas et al. 2018,
    PMSQE).
    """

    N_FFT, BANDS, LEVEL = 512, 49, 10 ** (79.0 / 10)
    """Window length of the squared magnitudes in samples; bands along the Bark scale; SPL of the target, 79 dB."""

    filters: Tensor
    threshold: Tensor
    exponent: Tensor
    size: Tensor

    def __init__(self, sample_rate: int = 16000) -> None:
        super().__init__()
        hz = torch.arange(self.N_FFT // 2 + 1) * sample_rate / self.N_FFT
        place = bark(hz.clamp_min(20.0))
        lowest, highest = (float(bark(torch.tensor(edge))) for edge in (45.0, sample_rate / 2))
        edges = torch.linspace(lowest, highest, self.BANDS + 2)
        rising = (place - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
        falling = (edges[2:, None] - place) / (edges[2:] - edges[1:-1])[:, None]
        filters = torch.minimum(rising, falling).clamp_min(0.0)
        # Bands that are narrower than the spacing of the bins share the nearest ones.
        centre = (edges[1:-1, None] - place).abs().argmin(1)
        empty = filters.sum(1) < 0.5
        filters[empty] = F.one_hot(centre[empty], len(hz)).float()
        middle = 1960 * (edges[1:-1] + 0.53) / (26.28 - edges[1:-1])
        # A bin's power of 1 is a sine of 0 dB; thresholds refer to a band.
        threshold = 10 ** (threshold_db(middle.clamp(50, 8000)) / 10)
        exponent = 0.23 * (6 / (edges[1:-1] + 2)).clamp(1.0, 2.0) ** 0.15
        size = 0.187 * (threshold / 0.5) ** exponent
        for name, values in {"filters": filters, "threshold": threshold, "exponent": exponent, "size": size}.items():
            self.register_buffer(name, values, persistent=False)
        self.width = 24.0 / self.BANDS  # of a band, in Bark
        self.speech = (int(300 * self.N_FFT / sample_rate), int(3500 * self.N_FFT / sample_rate))

    def loudness(self, power: Tensor) -> Tensor:
        """Powers of bands -> loudness densities in sone per Bark (Zwicker)."""
        threshold, exponent, size = self.threshold[:, None], self.exponent[:, None], self.size[:, None]
        return size * ((0.5 + 0.5 * power / threshold) ** exponent - 0.5**exponent)

    def forward(self, decoded: Tensor, target: Tensor) -> Tensor:
        """Squared magnitudes (B, bins, frames) -> about the points that the disturbance costs; scalar."""
        with torch.no_grad():
            low, high = self.speech
            speech = target[:, low:high].sum(1)
            active = speech > 1e-3 * speech.amax(1, keepdim=True)
            mean = (speech * active).sum(1) / active.sum(1).clamp_min(1)
            scale = (self.LEVEL / mean.clamp_min(1e-7))[:, None, None]
            reference = torch.matmul(self.filters, target * scale)  # powers of bands; 1 is 0 dB SPL
            wanted = self.loudness(reference)
            loud = (0.04 * torch.log((target * scale).sum(1).clamp_min(1.0) / 1e7)).exp()
        power = torch.matmul(self.filters, decoded * scale)
        heard = self.loudness(power)
        difference = heard - wanted
        masked = 0.25 * torch.minimum(heard, wanted).detach()
        difference = torch.sign(difference) * (difference.abs() - masked).clamp_min(0.0)
        symmetric = torch.sqrt(difference.square().sum(1) * (self.width * 24.0) + 1e-6)
        with torch.no_grad():
            asymmetry = ((power + 50) / (reference + 50)) ** 1.2
            asymmetry = torch.where(asymmetry < 3, 0.0, asymmetry.clamp_max(12.0))
        asymmetric = (difference.abs() * asymmetry).sum(1) * self.width
        worth = 0.1 * symmetric.clamp_max(45.0) + 0.0309 * asymmetric.clamp_max(45.0)
        return (worth / loud).mean()


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
    """

    N_FFTS, PHASE_N_FFTS = (128, 256, 512, 1024, 2048), (256, 512)
    """Window lengths in samples, the hop is a quarter of each; those for ``complex``."""
    LOWEST_HZ = 600.0
    """Upper end of the band of ``harmonics``."""
    POWER, FLOOR = 0.3, 1e-3
    """Of the compression; magnitudes below the floor are not told apart."""

    def __init__(self, sample_rate: int = 16000) -> None:
        super().__init__()
        import librosa

        self.disturbance = Disturbance(sample_rate)
        self.low_bins = round(self.LOWEST_HZ * Disturbance.N_FFT / sample_rate)
        for n_fft in self.N_FFTS:
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
        return 0.5 * torch.log(torch.matmul(getattr(self, f"mel{n_fft}"), squared) + self.FLOOR**2)

    def compress(self, squared: Tensor) -> Tensor:
        """Squared magnitudes -> compressed ones. Logarithm and exponential are several times faster than a power."""
        return torch.exp((self.POWER / 2) * torch.log(squared + 1e-6))

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
        for n_fft in self.N_FFTS:
            spectrum, squared = self.transform(decoded, n_fft)
            with torch.no_grad():
                reference, reference_squared = self.transform(target, n_fft)
                wanted = self.compress(reference_squared)
            compressed = self.compress(squared)
            terms["magnitude"] = terms["magnitude"] + F.l1_loss(compressed, wanted) / len(self.N_FFTS)
            if n_fft in MELS:
                with torch.no_grad():
                    mel = self.log_mel(reference_squared, n_fft)
                terms["mel"] = terms["mel"] + F.l1_loss(self.log_mel(squared, n_fft), mel) / len(MELS)
            if n_fft in self.PHASE_N_FFTS and phase is not None and len(phase):
                scale = compressed[phase] / (squared[phase] + 1e-6).sqrt()
                wanted_scale = wanted[phase] / (reference_squared[phase] + 1e-6).sqrt()
                real = spectrum.real[phase] * scale - reference.real[phase] * wanted_scale
                imaginary = spectrum.imag[phase] * scale - reference.imag[phase] * wanted_scale
                distance = torch.sqrt(real.square() + imaginary.square() + 1e-6).mean()
                terms["complex"] = terms["complex"] + distance / len(self.PHASE_N_FFTS)
            if n_fft == Disturbance.N_FFT:
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


class SpeakerMeans(nn.Module):
    """Keeps a codebook from telling who speaks by what stays the same in all that a speaker says.

    The mean of each speaker's vectors is followed by a moving average; the loss is the variance of these means, as a
    share of the variance of all vectors. Its gradient moves every vector of a speaker by the same.

    ``decay`` is that of the averages, by batches that have the speaker.
    """

    means: Tensor
    seen: Tensor
    moments: Tensor

    def __init__(self, channels: int, n_speakers: int, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("means", torch.zeros(n_speakers, channels))
        self.register_buffer("seen", torch.zeros(n_speakers))
        self.register_buffer("moments", torch.zeros(2, channels))  # mean and variance of all vectors

    def forward(self, latents: Tensor, values: Tensor, active: Tensor, speaker: Tensor) -> Tensor:
        """Latents that carry the gradient and their vectors, (B, C, F) where ``active`` (B, F), of speakers (B,)."""
        weight = active.float()[:, None]
        n_frames = weight.sum(2).clamp_min(1)
        own = (values * weight).sum(2) / n_frames
        with torch.no_grad():
            self._follow(own, values, active, speaker)
            known = self.seen > 0
            if not known.any():
                return latents.new_zeros(())
            centre = self.means[known].mean(0)
            direction = self.means[speaker] - centre
            total = self.moments[1].sum().clamp_min(1e-6)
            share = (self.means[known] - centre).square().sum(1).mean() / total
        pull = ((latents * weight).sum(2) / n_frames * direction).sum(1).mean() / total
        return 2 * (pull - pull.detach()) + share

    def _follow(self, own: Tensor, values: Tensor, active: Tensor, speaker: Tensor) -> None:
        rows = values.transpose(1, 2)[active]
        if len(rows) < 2:
            return
        found = torch.stack([rows.mean(0), rows.var(0)])
        self.moments.copy_(found if not self.seen.any() else self.moments.lerp(found, 0.02))
        for mean, number, voiced in zip(own, speaker.tolist(), active.any(1).tolist(), strict=True):
            if voiced:
                rate = max(1 - self.decay, 1 / (1 + float(self.seen[number])))
                self.means[number].lerp_(mean, rate)
                self.seen[number] += 1
