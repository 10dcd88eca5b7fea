"""Latents -> waveform, all samples at once: a backbone at the frame rate shapes a harmonic source and noise.

The harmonic source is made from the coded pitch, of whole recordings in batches; `audiovq.codec.signal` makes the same
signal while the pitch arrives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.codec.encoder import N_VALUES, pitch_to_hz
from audiovq.codec.signal import NOISE_FRAMES, RAMP, SILENT_GAIN, TOP_HZ, noise_table
from audiovq.nn import ChannelNorm, DilatedResidualUnit


def instantaneous_frequency(f0: Tensor, hop_length: int) -> Tensor:
    """Fundamental of each sample: linear between the middles of voiced frames, held at the edges of voicing.

    Args:
        f0: (B, F + 2) Hz, 0 where unvoiced: the frames, with one neighbour on either side.
        hop_length: samples of a frame, even.

    Returns:
        (B, F, hop_length) Hz; 0 in unvoiced frames.
    """
    before, here, after = f0[:, :-2], f0[:, 1:-1], f0[:, 2:]
    before = torch.where(before > 0, before, here)
    after = torch.where(after > 0, after, here)
    place = (torch.arange(hop_length // 2, device=f0.device, dtype=f0.dtype) + 0.5) / hop_length
    rising = before[..., None] + (here - before)[..., None] * (0.5 + place)
    falling = here[..., None] + (after - here)[..., None] * place
    frequency = torch.cat([rising, falling], dim=-1)
    return frequency * (here > 0)[..., None]


def frame_cycles(f0: Tensor, hop_length: int, sample_rate: int) -> Tensor:
    """Cycles (B, F) of each frame for ``f0 (B, F + 2)``: the sum of `instantaneous_frequency` in closed form."""
    before, here, after = f0[:, :-2], f0[:, 1:-1], f0[:, 2:]
    before = torch.where(before > 0, before, here)
    after = torch.where(after > 0, after, here)
    return (before + 6 * here + after) * (here > 0) * (hop_length / (8 * sample_rate))


def pulse_train(phase: Tensor, frequency: Tensor) -> Tensor:
    """Sum of all harmonics up to `TOP_HZ`, of unit power, in closed form (Dirichlet kernel).

    The uppermost harmonic fades in as the fundamental falls, so that a harmonic never begins with a click.

    Args:
        phase: cycles, any shape.
        frequency: Hz, the same shape; 0 gives silence.
    """
    room = TOP_HZ / frequency.clamp_min(40.0)
    harmonics = torch.floor(room)
    angle = 2 * math.pi * phase
    sine = torch.sin(angle / 2)
    flat = sine.abs() < 1e-4
    below = harmonics - 1
    kernel = torch.sin((below + 0.5) * angle) / (2 * torch.where(flat, 1.0, sine)) - 0.5
    kernel = torch.where(flat, below, kernel) + (room - harmonics) * torch.cos(harmonics * angle)
    return kernel * torch.sqrt(2.0 / room) * (frequency > 0)


def envelope_of_voicing(f0: Tensor, hop_length: int) -> Tensor:
    """Amplitude (B, F, hop_length) of the source for ``f0 (B, F + 2)``: ramps in the first and last voiced frame."""
    ramp = torch.sin((torch.arange(RAMP, device=f0.device, dtype=f0.dtype) + 0.5) / RAMP * (math.pi / 2)).square()
    rise = torch.cat([ramp, ramp.new_ones(hop_length - RAMP)])
    starts, ends = (f0[:, :-2] == 0)[..., None], (f0[:, 2:] == 0)[..., None]
    return torch.where(starts, rise, 1.0) * torch.where(ends, rise.flip(0), 1.0)


def harmonic_source(f0: Tensor, hop_length: int, sample_rate: int, exact: bool | None = None) -> Tensor:
    """The harmonic source of whole recordings, for training: (B, F) Hz -> (B, F * hop_length).

    The phase is the running sum of the fundamental and starts at zero where voicing starts, as in `HarmonicSource`.
    Unless it is to be ``exact`` (None: on the CPU), only the phases of frames are float64; those of samples within a
    frame, a few cycles, are float32.
    """
    padded = torch.nn.functional.pad(f0.double(), (1, 1))
    exact = f0.device.type == "cpu" if exact is None else exact
    fine = padded if exact else padded.float()
    frequency = instantaneous_frequency(fine, hop_length)
    advance = frequency.sum(-1) / sample_rate if exact else frame_cycles(padded, hop_length, sample_rate)
    total = torch.cumsum(advance, dim=1)
    before = total - advance  # cycles before each frame
    starts = (padded[:, :-2] == 0) & (padded[:, 1:-1] > 0)
    origin = torch.cummax(torch.where(starts, before, 0.0), dim=1).values
    begin = before - origin if exact else torch.remainder(before - origin, 1.0).float()
    phase = begin[..., None] + torch.cumsum(frequency, dim=-1) / sample_rate
    phase = torch.remainder(phase, 1.0).float()
    wave = pulse_train(phase, frequency.float()) * envelope_of_voicing(fine, hop_length).float()
    return wave.flatten(1)


BUMPS = 8
"""Overlapping bumps along the pitch scale, by which the backbone is told the pitch."""
SIDE_FEATURES = BUMPS + 2


def side_features(pitch: Tensor, direct: Tensor) -> Tensor:
    """Pitch codes (B, F), and items (B,) or frames (B, F) that have the part without a source -> (B, SIDE_FEATURES, F).

    They are what the backbone is given beside the latents: voicing, bumps along the pitch scale, the kind of decoding.
    """
    centres = torch.linspace(1, N_VALUES, BUMPS, device=pitch.device)
    width = (N_VALUES - 1) / (BUMPS - 1)
    bumps = torch.exp(-0.5 * ((pitch[:, None].float() - centres[:, None]) / (0.7 * width)).square())
    voiced = (pitch > 0).float()[:, None]
    kind = direct.float().view(len(pitch), 1, -1).expand_as(voiced)
    return torch.cat([voiced, bumps * voiced, kind], dim=1)


class Backbone(nn.Module):
    """Residual units at the latents' rate, then at higher rates, with learned upsampling between the stages.

    Every residual unit is modulated by the speaker vector, of ``condition_dim`` values. ``channels`` and ``dilations``
    have one entry per stage, with a unit for every dilation; ``upsample`` is the factor after each stage but the last.
    """

    def __init__(
        self,
        in_channels: int,
        condition_dim: int,
        channels: Sequence[int],
        dilations: Sequence[Sequence[int]],
        upsample: Sequence[int],
    ) -> None:
        super().__init__()
        if not len(channels) == len(dilations) == len(upsample) + 1:
            raise ValueError("channels and dilations need one entry per stage, upsample one less")
        self.channels = list(channels)
        self.entry = nn.Conv1d(in_channels, channels[0], 3, padding=1)
        #: Features per latent.
        self.rate = 1
        reach = 1.0  # latents on either side that one feature may depend on
        self.stages = nn.ModuleList()
        self.upsamplers = nn.ModuleList()
        for i, (width, stage_dilations) in enumerate(zip(channels, dilations, strict=True)):
            units = [DilatedResidualUnit(width, dilation=d, condition_dim=condition_dim) for d in stage_dilations]
            reach += sum(unit.padding for unit in units) / self.rate
            self.stages.append(nn.ModuleList(units))
            if i < len(upsample):
                self.upsamplers.append(nn.Conv1d(width, channels[i + 1] * upsample[i], 1))
                self.rate *= upsample[i]
        self.norm = ChannelNorm(channels[-1])
        self.reach = reach

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Input (B, in_channels, F), speaker vector (B, S) -> features (B, channels[-1], F * rate)."""
        x = self.entry(x)
        for i, units in enumerate(self.stages):
            for unit in units:  # type: ignore[attr-defined]
                x = unit(x, condition)
            if i < len(self.upsamplers):
                x = interleave(self.upsamplers[i](x), self.channels[i + 1])
        return self.norm(x)


def interleave(x: Tensor, channels: int) -> Tensor:
    """(B, channels * factor, T) -> (B, channels, T * factor): groups of channels become neighbouring steps of time."""
    batch, width, length = x.shape
    factor = width // channels
    return x.view(batch, channels, factor, length).transpose(2, 3).reshape(batch, channels, length * factor)


class SourceFilterDecoder(nn.Module):
    """Backbone, then for each short frame a complex gain for the harmonic source, a real gain for noise, and a spectrum
    of its own where the codes can hold the phase.

    Both sources go through a short-time Fourier transform, are multiplied by their gains, and overlap-add: the
    harmonics are exact by construction, and the network has a smooth spectral envelope to learn. (Source and filter as
    in Wang et al. 2019, neural source-filter models; gains in the spectrum as in Engel et al. 2020, DDSP.) Few
    codebooks cannot tell the phase of a recording, and a decoder that is asked for it blurs; with ``direct_from``
    codebooks and more a third part, predicted without a source (Siuzdak 2023, Vocos), brings the waveform closer to the
    recording's. Frames are centred on the middle of their hop. The Hann windows of analysis and synthesis add up to a
    constant from an overlap of three on, so the output never depends on where a chunk begins.

    Args:
        latent_dim, hop_length, sample_rate: channels of the latents, samples of each, Hz.
        condition_dim, channels, dilations, upsample: see `Backbone`.
        overlap: short frames that cover one sample.
        direct_from: fewest codebooks of speech that gets the part without a source.
    """

    window: Tensor
    noise: Tensor

    def __init__(
        self,
        latent_dim: int,
        condition_dim: int,
        channels: Sequence[int],
        dilations: Sequence[Sequence[int]],
        upsample: Sequence[int],
        hop_length: int,
        sample_rate: int,
        overlap: int = 4,
        direct_from: int = 5,
    ) -> None:
        super().__init__()
        self.direct_from = direct_from
        self.backbone = Backbone(latent_dim + SIDE_FEATURES, condition_dim, channels, dilations, upsample)
        self.hop_length, self.sample_rate, self.overlap = hop_length, sample_rate, overlap
        if hop_length % self.backbone.rate:
            raise ValueError(f"the product of upsample, {self.backbone.rate}, must divide the hop length {hop_length}")
        self.step = hop_length // self.backbone.rate
        self.n_fft = self.step * overlap
        if overlap < 3 or (self.n_fft - self.step) % 2:
            raise ValueError(f"no overlap-add of {overlap} frames of {self.step} samples adds up to a constant")
        self.bins = self.n_fft // 2 + 1
        self.gains = nn.Conv1d(channels[-1], 4 * self.bins, 1)
        with torch.no_grad():
            self.gains.weight.mul_(0.3)
            self.gains.bias.zero_()  # type: ignore[union-attr]
            size, real, _, noise = self.gains.bias.chunk(4)  # type: ignore[union-attr]
            size.fill_(-4.0)
            real.fill_(1.0)
            noise.fill_(-5.0)
            self.direct = nn.Conv1d(channels[-1], 3 * self.bins, 1)
            self.direct.weight.mul_(0.3)
            self.direct.bias.zero_()  # type: ignore[union-attr]
            self.direct.bias[: self.bins] = -4.0  # type: ignore[index]
        hann = torch.hann_window(self.n_fft)
        self.register_buffer("window", hann, persistent=False)
        self.register_buffer("synthesis", hann / (hann.square().sum() / self.step), persistent=False)
        self.trim = (self.n_fft - self.step) // 2
        self.noise_frames = NOISE_FRAMES
        self.register_buffer("noise", self.noise_spectra(), persistent=False)
        #: Latents on either side that one output sample may depend on.
        self.context_frames = math.ceil(self.backbone.reach + overlap / self.backbone.rate)

    synthesis: Tensor

    def noise_spectra(self) -> Tensor:
        """Windowed spectra (noise_frames, bins) of noise that repeats after ``noise_frames`` steps."""
        table = torch.from_numpy(noise_table(self.noise_frames, self.step))
        around = torch.cat([table[-self.trim :], table, table[: self.trim]])
        return torch.fft.rfft(around.unfold(0, self.n_fft, self.step) * self.window)

    def features(self, latents: Tensor, pitch: Tensor, condition: Tensor, direct: Tensor) -> Tensor:
        """Features (B, channels[-1], F * rate); ``direct`` is bool, see `side_features`."""
        side = side_features(pitch, direct).to(latents.dtype)
        return self.backbone(torch.cat([latents, side], dim=1), condition)

    def shape(self, gains: Tensor, direct: Tensor | None, source: Tensor, noise: Tensor) -> Tensor:
        """Gains of the sources (B, 4 * bins, N), log-gains, real and imaginary parts of the part without a source
        (B, 3 * bins, N), and spectra of both sources (B, N, bins) -> short frames (B, N, n_fft), to be added up."""
        with torch.autocast(gains.device.type, enabled=False):
            size, real, imaginary, noise_size = gains.float().transpose(1, 2).chunk(4, dim=2)
            size = torch.exp(size.clamp(max=4.0))
            spectrum = source * torch.complex(size * real, size * imaginary)
            spectrum = spectrum + noise * torch.exp(noise_size.clamp(max=4.0))
            if direct is not None:
                size, real, imaginary = direct.float().transpose(1, 2).chunk(3, dim=2)
                size = torch.exp(size.clamp(max=6.0))
                spectrum = spectrum + torch.complex(size * real, size * imaginary)
            return torch.fft.irfft(spectrum, n=self.n_fft, dim=2) * self.synthesis

    def add(self, frames: Tensor) -> Tensor:
        """Overlap-add: (B, N, n_fft) -> (B, (N - 1) * step + n_fft)."""
        batch, n_frames, _ = frames.shape
        pieces = frames.view(batch, n_frames, self.overlap, self.step)
        total = frames.new_zeros(batch, n_frames + self.overlap - 1, self.step)
        for i in range(self.overlap):
            total[:, i : i + n_frames] += pieces[:, :, i]
        return total.flatten(1)

    def forward(
        self, latents: Tensor, pitch: Tensor, condition: Tensor, n_codebooks: Tensor, lost: Tensor | None = None
    ) -> Tensor:
        """Latents (B, C, F), pitch codes (B, F), speaker vectors (B, S), and the number of codebooks (B,) that each
        item's latents are made from -> waveform (B, 1, F * hop_length).

        ``lost`` frames (B, F) have no part without a source: their phase cannot be known. In training each item's noise
        starts at a random place of the table.
        """
        has_direct = n_codebooks >= self.direct_from
        if lost is not None:
            has_direct = has_direct[:, None] & ~lost
        features = self.features(latents, pitch, condition, has_direct)
        return self.synthesize(features, pitch, has_direct, self.training)

    def synthesize(self, features: Tensor, pitch: Tensor, has_direct: Tensor, random_noise: bool = False) -> Tensor:
        """`features` (B, channels[-1], F * rate) and pitch codes (B, F) -> waveform (B, 1, F * hop_length).

        Items with ``has_direct`` (B,), or frames (B, F), get the part without a source, too; with ``random_noise`` the
        noise of each item starts at a random place of the table.
        """
        gains, n_frames = self.gains(features), features.shape[-1]
        direct = self.direct(features)
        quiet = torch.where(has_direct, 0.0, SILENT_GAIN).to(direct).view(len(direct), 1, -1)
        if has_direct.ndim == 2:
            quiet = quiet.repeat_interleave(self.backbone.rate, dim=2)
        direct = torch.cat([direct[:, : self.bins] + quiet, direct[:, self.bins :]], dim=1)
        with torch.autocast(features.device.type, enabled=False):
            source = harmonic_source(pitch_to_hz(pitch), self.hop_length, self.sample_rate)
            around = F.pad(source, (self.trim, self.trim))
            harmonics = torch.fft.rfft(around.unfold(1, self.n_fft, self.step) * self.window)
            start = torch.zeros(len(features), dtype=torch.int64, device=features.device)
            if random_noise:
                start = torch.randint(self.noise_frames, start.shape, device=start.device)
            index = (start[:, None] + torch.arange(n_frames, device=start.device)) % self.noise_frames
            noise = self.noise[index]
        samples = self.add(self.shape(gains, direct, harmonics, noise))
        return samples[:, None, self.trim : self.trim + n_frames * self.step]
