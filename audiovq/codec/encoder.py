"""Waveform -> latents, speaker vector and pitch: the encoder's trunks, the speaker encoder and the pitch tracker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.interfaces import CERTAINTY, LOWEST_HZ, N_VALUES, STEPS_PER_OCTAVE, UNVOICED
from audiovq.nn import ChannelNorm, DilatedResidualUnit
from audiovq.quantize import FiniteScalarQuantizer


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
        hop_length, n_fft: samples of a frame and of the analysis window.
        sample_rate, top_hz: Hz; the spectrum is used up to the latter.
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


def gabor_filters(n_filters: int, kernel_size: int, sample_rate: int) -> Tensor:
    """Windowed cosines and sines at mel-spaced frequencies, (2 * n_filters, 1, kernel_size).

    Cosines first, sines after. High bands get shorter windows, as wide as the band allows, so that they follow time
    more closely (Zeghidour et al. 2018 start learned filterbanks in this way).
    """
    mel_top = 2595.0 * math.log10(1.0 + (sample_rate / 2) / 700.0)
    mels = torch.linspace(0.0, mel_top, n_filters + 2, dtype=torch.float64)
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    centre, bandwidth = edges[1:-1], edges[2:] - edges[:-2]
    width = (4.0 * sample_rate / bandwidth).clamp(min=kernel_size / 5, max=kernel_size)  # samples of a Hann window
    time = torch.arange(kernel_size, dtype=torch.float64) - (kernel_size - 1) / 2
    position = (time[None] / width[:, None]).clamp(-0.5, 0.5)
    window = torch.cos(math.pi * position) ** 2
    window = window / window.sum(dim=1, keepdim=True)
    angle = 2 * math.pi * centre[:, None] / sample_rate * time[None]
    filters = torch.cat([window * torch.cos(angle), window * torch.sin(angle)])
    return (2.0 * filters).float().unsqueeze(1)


class Filterbank(nn.Module):
    """Strided convolution of the waveform with learned quadrature pairs, then compression of their magnitudes.

    Speech spans some 60 dB within a second; compressed magnitudes put the quiet parts in reach of the layers behind,
    and the scaled pairs keep the phase, which the finer codebooks describe.

    Args:
        n_filters: quadrature pairs, each of which gives a log-magnitude.
        kernel_size, stride: samples of a filter, and between outputs; their difference must be even.
        phase: whether the scaled pairs are given, too: two further channels for each.
        relative_phase: and two, turned back by the phase of a reference signal in the same band.
    """

    def __init__(
        self,
        n_filters: int,
        kernel_size: int,
        stride: int,
        sample_rate: int = 16000,
        phase: bool = True,
        relative_phase: bool = False,
    ) -> None:
        super().__init__()
        if (kernel_size - stride) % 2:
            raise ValueError(f"kernel_size - stride must be even, got {kernel_size} and {stride}")
        self.stride, self.phase, self.relative_phase = stride, phase, relative_phase
        self.padding = (kernel_size - stride) // 2
        self.out_channels = n_filters * (1 + 2 * phase + 2 * relative_phase)
        self.weight = nn.Parameter(gabor_filters(n_filters, kernel_size, sample_rate))

    def pairs(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, T) -> real and imaginary parts (B, n_filters, T / stride)."""
        if torch.onnx.is_in_onnx_export():  # ONNX has no strided windows of variable length
            x = F.conv1d(waveform, self.weight, stride=self.stride, padding=self.padding)
            real, imaginary = x.chunk(2, dim=1)
            return real, imaginary
        x = F.pad(waveform.float(), (self.padding, self.padding))
        # One matrix product over strided windows: several times faster on a CPU than a one-channel convolution.
        windows = x.squeeze(1).unfold(-1, self.weight.shape[-1], self.stride)  # (B, frames, kernel)
        real, imaginary = torch.matmul(windows, self.weight.squeeze(1).t()).transpose(1, 2).chunk(2, dim=1)
        return real, imaginary

    def forward(self, waveform: Tensor, reference: Tensor | None = None) -> Tensor:
        """Waveform and reference (B, 1, T), T a multiple of the stride -> (B, out_channels, T / stride)."""
        with torch.autocast(waveform.device.type, enabled=False):  # small magnitudes need float32
            real, imaginary = self.pairs(waveform)
            squared = real.square() + imaginary.square() + 1e-8
            magnitude = torch.sqrt(squared)
            level = (torch.log(magnitude + 1e-3) + 4.0) * 0.5  # roughly zero mean and unit variance on speech
            outputs = [level]
            scale = 2.0 * torch.exp(-0.3 * torch.log(squared))
            real, imaginary = real * scale, imaginary * scale
            if self.phase:
                outputs += [real, imaginary]
            if self.relative_phase:
                if reference is None:
                    raise ValueError("relative phases need a reference signal")
                cosine, sine = self.pairs(reference)
                size = torch.rsqrt(cosine.square() + sine.square() + 1e-4)  # fades out where there is no source
                cosine, sine = cosine * size, sine * size
                outputs += [real * cosine + imaginary * sine, imaginary * cosine - real * sine]
            return torch.cat(outputs, dim=1)


class Trunk(nn.Module):
    """Strided convolutions with dilated residual units between them.

    Stage ``i`` is a strided convolution to ``channels[i]`` followed by one dilated residual unit for every entry of
    ``dilations[i]``. The paper's encoder (van den Oord et al. 2017, section 4.2) is six stages of stride 2 and window 4
    without residual units. With ``filterbank`` the waveform first goes through quadrature filters (see `Filterbank`),
    which stride early: nearly all work is then done at 200 Hz and below.

    Args:
        latent_dim: channels of the latents.
        channels, strides, kernel_sizes, dilations: one entry per stage.
        filterbank, relative_phase: arguments of `Filterbank`, or None to convolve the waveform itself.
        condition_dim: length of a vector that modulates the residual units, or None.

    Raises:
        ValueError: when the lists differ in length or a stage cannot keep the frame count exact.
    """

    def __init__(
        self,
        latent_dim: int,
        channels: Sequence[int],
        strides: Sequence[int],
        kernel_sizes: Sequence[int],
        dilations: Sequence[Sequence[int]],
        filterbank: dict[str, Any] | None = None,
        condition_dim: int | None = None,
        relative_phase: bool = False,
    ) -> None:
        super().__init__()
        if not len(channels) == len(strides) == len(kernel_sizes) == len(dilations):
            raise ValueError("channels, strides, kernel_sizes and dilations need one entry per stage")
        if relative_phase and not filterbank:
            raise ValueError("relative_phase needs a filterbank")
        self.latent_dim = latent_dim
        self.relative_phase = relative_phase
        self.filterbank = Filterbank(**filterbank, relative_phase=relative_phase) if filterbank else None
        self.hop_length = self.filterbank.stride if self.filterbank else 1
        before = self.filterbank.out_channels if self.filterbank else 1
        layers: list[nn.Module] = []
        reach = self.filterbank.padding if self.filterbank else 0
        for width, stride, kernel_size, stage_dilations in zip(channels, strides, kernel_sizes, dilations, strict=True):
            if (kernel_size - stride) % 2 or kernel_size < stride:
                raise ValueError(f"kernel_size {kernel_size} and stride {stride} must differ by an even number >= 0")
            padding = (kernel_size - stride) // 2
            layers.append(nn.Conv1d(before, width, kernel_size, stride=stride, padding=padding))
            reach += padding * self.hop_length
            self.hop_length *= stride
            for dilation in stage_dilations:
                unit = DilatedResidualUnit(width, dilation=dilation, condition_dim=condition_dim)
                layers.append(unit)
                reach += unit.padding * self.hop_length
            if not stage_dilations:
                layers.append(nn.SiLU())
            before = width
        self.layers = nn.ModuleList(layers)
        self.project = nn.Sequential(ChannelNorm(before), nn.Conv1d(before, latent_dim, 1))
        #: Latents on either side that one latent may depend on; this much context makes chunked equal whole.
        self.context_frames = -(-reach // self.hop_length)

    def forward(self, waveform: Tensor, condition: Tensor | None = None, reference: Tensor | None = None) -> Tensor:
        """Waveform (B, 1, T), T a multiple of ``hop_length`` -> (B, latent_dim, T / hop_length).

        Conditioned trunks get a vector (B, S), those with ``relative_phase`` a signal (B, 1, T) to compare phases with.
        """
        if waveform.shape[-1] % self.hop_length:
            raise ValueError(f"{waveform.shape[-1]} samples are no multiple of the hop length {self.hop_length}")
        x = self.filterbank(waveform, reference) if self.filterbank is not None else waveform
        for layer in self.layers:
            x = layer(x, condition) if isinstance(layer, DilatedResidualUnit) else layer(x)
        return self.project(x)


class SpeechEncoder(nn.Module):
    """Content latents and detail latents, in this order along the channels.

    The content trunk sees the waveform alone. The detail trunk is conditioned on the speaker vector, so that it can
    leave out what that says, and compares phases with the harmonic source, which the decoder has, too.

    Args:
        content, detail: arguments of `Trunk`; without what the speaker vector decides.
        speaker_dim: length of the speaker vector.
    """

    def __init__(self, detail: dict[str, Any], content: dict[str, Any], speaker_dim: int) -> None:
        super().__init__()
        self.content = Trunk(**content)
        self.detail = Trunk(**detail, condition_dim=speaker_dim, relative_phase=True)
        self.hop_length = self.detail.hop_length
        if self.content.hop_length != self.hop_length:
            raise ValueError("content and detail need the same hop length")
        self.latent_dim = self.content.latent_dim + self.detail.latent_dim
        self.context_frames = max(self.content.context_frames, self.detail.context_frames)

    def forward(self, waveform: Tensor, speaker: Tensor, source: Tensor) -> Tensor:
        """Waveform (B, 1, T), speaker vector (B, S), harmonic source (B, 1, T) -> latents (B, C, F)."""
        return torch.cat([self.content(waveform), self.detail(waveform, speaker, source)], dim=1)


class SpeakerEncoder(nn.Module):
    """A stretch of speech of any length to one quantized vector.

    Log-magnitudes of a filterbank, dilated residual units, then mean and standard deviation over time weighted by a
    learned attention (Okabe et al. 2018), a projection to ``dim`` values and finite scalar quantization (Mentzer et
    al. 2023) to ``levels`` steps each.

    In training it sees another stretch of the same speaker than the one to be coded, so that it has nothing to tell
    but what the stretches share: the voice.

    Args:
        dim, levels: of the vector.
        n_filters, kernel_size, stride; channels, dilations: of the filterbank; of the residual units.
        normalised: whether the values get zero mean and unit variance before they are bounded. Without it training may
            drive them into saturation, where every value is one of the two outermost levels: gradients end there, and
            an average of two voices means nothing.
    """

    def __init__(
        self,
        dim: int = 32,
        levels: int = 16,
        channels: int = 128,
        dilations: Sequence[int] = (1, 2, 4),
        n_filters: int = 64,
        kernel_size: int = 400,
        stride: int = 160,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.levels, self.normalised = dim, levels, normalised
        self.filterbank = Filterbank(n_filters, kernel_size, stride, phase=False)
        self.entry = nn.Conv1d(n_filters, channels, 4, stride=2, padding=1)
        self.units = nn.Sequential(*[DilatedResidualUnit(channels, dilation=d) for d in dilations])
        self.attention = nn.Conv1d(channels, channels, 1)
        self.project = nn.Linear(2 * channels, dim)
        # Every entry of the vector is quantized on its own: entries are the positions of a one-channel sequence.
        self.quantizer = FiniteScalarQuantizer([levels])
        #: Shorter stretches are padded with silence up to this many samples.
        self.min_samples = 2 * stride

    def features(self, waveform: Tensor) -> Tensor:
        """Unquantized vector: (B, 1, T) -> (B, S)."""
        waveform = F.pad(waveform, (0, -waveform.shape[-1] % self.min_samples))
        x = self.filterbank(waveform)
        x = x - x.mean(dim=(1, 2), keepdim=True)  # the level of the recording is not the voice
        x = self.units(self.entry(x))
        weights = torch.softmax(self.attention(x).float(), dim=-1)
        x = x.float()
        mean = (weights * x).sum(-1)
        deviation = ((weights * x.square()).sum(-1) - mean.square()).clamp_min(1e-5).sqrt()
        vector = self.project(torch.cat([mean, deviation], dim=1)).float()
        return F.layer_norm(vector, (self.dim,)) if self.normalised else vector

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> quantized vector (B, S), with a straight-through gradient."""
        return self.quantizer(self.features(waveform).unsqueeze(1)).latents.squeeze(1)

    def encode(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> integer values (B, S) in ``[0, levels)``."""
        return self.quantizer.encode(self.features(waveform).unsqueeze(1)).squeeze(1)

    def levels_of(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> the values before rounding (B, S), from 0 to ``levels - 1``: these can be averaged."""
        return self.quantizer.bound(self.features(waveform).unsqueeze(1)).squeeze(1) + self.levels // 2

    def decode(self, codes: Tensor) -> Tensor:
        """Integer values (B, S) -> the vector (B, S), bit for bit what `forward` gave."""
        return self.quantizer.decode(codes.unsqueeze(1)).squeeze(1)
