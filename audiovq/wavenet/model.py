"""The WaveNet decoder: an autoregressive distribution over the waveform around the parallel decoder's output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.nn import DilatedResidualUnit
from audiovq.nn.distributions import LogisticMixture, compand
from audiovq.nn.sequence import WaveNetStack


class PQMF(nn.Module):
    """Cosine-modulated filter bank, ``n_bands`` bands each at ``1 / n_bands`` of the rate (Nguyen 1994).

    The prototype is a Kaiser-windowed low-pass whose cut-off makes the bank as nearly perfect as its length allows
    (Lin and Vaidyanathan 1998). A sinusoid keeps its amplitude in its band. Bands are aligned with the waveform: value
    t of a band stands for the samples around ``t * n_bands``.

    Args:
        n_bands: 1 leaves the waveform as it is.
        order: of the prototype, a multiple of ``2 * n_bands``; more is nearer to perfect, and reaches further.
        beta: of the Kaiser window.
    """

    analysis_filters: Tensor
    synthesis_filters: Tensor

    def __init__(self, n_bands: int = 4, order: int | None = None, beta: float = 9.0) -> None:
        super().__init__()
        self.n_bands = n_bands
        self.order = 16 * n_bands if order is None else order
        if self.order % (2 * n_bands):
            raise ValueError(f"the order {self.order} must be a multiple of {2 * n_bands}")
        #: Steps on either side that a sample of the waveform depends on.
        self.context_steps = self.order // 2 // n_bands if n_bands > 1 else 0
        prototype = _prototype(n_bands, self.order, beta)
        n, k = np.arange(self.order + 1) - self.order / 2, np.arange(n_bands)[:, None]
        phase = (2 * k + 1) * np.pi / (2 * n_bands) * n
        turn = (-1.0) ** k * np.pi / 4
        analysis = 2 * prototype * np.cos(phase + turn)
        synthesis = 2 * n_bands * prototype * np.cos(phase - turn)
        self.register_buffer("analysis_filters", torch.from_numpy(analysis[:, None, ::-1].copy()).float(), False)
        self.register_buffer("synthesis_filters", torch.from_numpy(synthesis[:, None]).float(), False)

    def analysis(self, waveform: Tensor) -> Tensor:
        """(B, 1, T), T a multiple of ``n_bands`` -> (B, n_bands, T / n_bands)."""
        if self.n_bands == 1:
            return waveform
        with torch.autocast(waveform.device.type, enabled=False):
            padded = F.pad(waveform.float(), (self.order // 2, self.order // 2 - self.n_bands + 1))
            return F.conv1d(padded, self.analysis_filters, stride=self.n_bands)

    def synthesis(self, bands: Tensor) -> Tensor:
        """(B, n_bands, T) -> (B, 1, T * n_bands)."""
        if self.n_bands == 1:
            return bands
        with torch.autocast(bands.device.type, enabled=False):
            full = F.conv_transpose1d(bands.float(), self.synthesis_filters, stride=self.n_bands)
            return full[..., self.order // 2 : self.order // 2 + bands.shape[-1] * self.n_bands]


def _prototype(n_bands: int, order: int, beta: float) -> np.ndarray:
    """Low-pass (order + 1,) whose autocorrelation is nearest to zero at all other multiples of ``2 * n_bands``."""
    n = np.arange(order + 1) - order / 2
    window = np.kaiser(order + 1, beta)

    def low_pass(cutoff: float) -> np.ndarray:
        return cutoff * np.sinc(cutoff * n) * window

    def error(cutoff: float) -> float:
        taps = low_pass(cutoff)
        spread = np.correlate(taps, taps, "full")[order :: 2 * n_bands]
        return float(np.abs(spread[1:]).max() / spread[0])

    # The error has one minimum a little above half a band; golden-section search.
    low, high, ratio = 0.5 / n_bands, 1.0 / n_bands, (5**0.5 - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if error(a) < error(b) else (a, high)
    taps = low_pass((low + high) / 2)
    # Power-complementary: the bands' energies add up to the signal's.
    return taps / np.sqrt(2 * n_bands * np.square(taps).sum())


UNITS = (-9.2, 0.0)
"""Smallest and largest logarithm of a mixture's unit: 80 dB below full scale, and full scale."""


@dataclass
class CodedFrames:
    """Everything that a frozen codec knows of F frames.

    Attributes:
        latents: (B, C, F), quantized.
        features: (B, D, F * rate), of the parallel decoder's backbone.
        speaker: (B, S) vectors.
        parallel: (B, 1, F * hop_length), the parallel decoder's output.
        source: (B, 1, F * hop_length), the harmonic source.
    """

    latents: Tensor
    features: Tensor
    speaker: Tensor
    parallel: Tensor
    source: Tensor


@dataclass
class Prepared:
    """The inputs of the recurrence that do not depend on the waveform.

    Attributes:
        condition: (B, channels, F * rate), of the stack; each position lasts ``hold`` steps.
        extra: (B, channels, n_steps), added to the stack's first layer.
        base: (B, n_bands, n_steps), subtracted from the sub-bands.
    """

    condition: Tensor
    extra: Tensor
    base: Tensor

    def steps(self, first: int, last: int, hold: int) -> Prepared:
        """Positions ``first`` to ``last`` of the condition, and their steps."""
        part = slice(first * hold, last * hold)
        return Prepared(self.condition[..., first:last], self.extra[..., part], self.base[..., part])


class WaveNetDecoder(nn.Module):
    """Autoregressive decoder (van den Oord et al. 2017, section 4.2) that refines a source-filter decoder's output.

    The waveform is split into sub-bands; one step of the recurrence gives one value of each. The stack's inputs are the
    values of the step before, a convolution over the parallel decoder's output and the harmonic source around the
    step, and a condition from the latents, the features of the parallel decoder and the speaker vector. So the
    network does not have to invent the period, and it can look ahead (source: Wang et al. 2019, neural source-filter
    models; linear prediction: Valin and Skoglund 2019, LPCNet). The noise of the source-filter model is part of
    the parallel decoder's output.

    The modelled value is that of the sub-band minus a share of the parallel decoder's. Each is distributed as a mixture
    of logistics, whose locations move with a linear prediction from exact past values and from the lower bands of the
    same step; the coefficients are outputs of the stack. A *unit* for each band, set by the condition, scales the
    mixture: what is learned from a loud vowel then holds for a quiet one.

    The stack's outputs, in this order (G bands, P parameters): G * P parameters; G * taps * G coefficients of the past,
    value i from value j of step ``t - 1 - k`` at ``i * taps * G + k * G + j``; G * (G - 1) / 2 coefficients of the
    same step.

    Args:
        latent_dim, feature_dim, speaker_dim: channels of `CodedFrames`.
        hop_length: samples of a frame.
        rate: positions of features in a frame.
        condition: ``channels`` and ``dilations`` of the residual units that make the condition.
        stack: arguments of `WaveNetStack` without the numbers of inputs and outputs.
        n_bands: sub-bands.
        n_mixtures, bits, min_log_scale: of `LogisticMixture`.
        taps: steps of the linear prediction.
        kernel_size: steps of the parallel decoder's output that a step is given, odd.
        input_noise: standard deviation, in units, of the noise added to past values in training: sampled values
            are not as exact as recordings, and a prediction must not grow from step to step.
        band_gains: factors that bring the bands to similar size within [-1, 1].
        temperature: factor of the mixtures' scales in `SpeechCodec.decode`, one for all or one for each band.

    Raises:
        ValueError: for settings that do not fit each other.
    """

    gains: Tensor
    level: nn.Linear
    #: Whether the stack has an extra input at each step, see `audiovq.kernels.wavenet_layout.Recurrence`.
    has_extra = True

    def __init__(
        self,
        latent_dim: int,
        feature_dim: int,
        speaker_dim: int,
        hop_length: int,
        rate: int,
        condition: dict[str, Any],
        stack: dict[str, Any],
        n_bands: int = 4,
        n_mixtures: int = 4,
        bits: int = 16,
        min_log_scale: float = -9.5,
        taps: int = 6,
        kernel_size: int = 17,
        input_noise: float = 0.2,
        band_gains: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
        temperature: float | Sequence[float] = 1.0,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        #: The arguments, as they are kept on disk.
        self.config: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
        if kernel_size % 2 == 0 or taps < 1 or hop_length % (n_bands * rate) or len(band_gains) != n_bands:
            raise ValueError(
                "give an odd kernel_size, taps, a hop of whole steps of the condition, a gain for each band"
            )
        self.hop_length, self.rate, self.taps, self.input_noise = hop_length, rate, taps, input_noise
        #: Values of a step, one of each band.
        self.n_values = n_bands
        #: Steps that one position of the condition lasts.
        self.hold = hop_length // (n_bands * rate)
        self.temperature = band_temperatures(temperature, n_bands)
        self.output = LogisticMixture(n_mixtures, bits, min_log_scale)
        self.pqmf = PQMF(n_bands)
        self.register_buffer("gains", torch.tensor(list(band_gains)).view(-1, 1), persistent=False)
        channels, dilations = condition["channels"], condition["dilations"]
        self.entry = nn.Conv1d(latent_dim + feature_dim, channels, 1)
        units = [DilatedResidualUnit(channels, dilation=d, condition_dim=speaker_dim) for d in dilations]
        self.units = nn.ModuleList(units)
        self.level = nn.Linear(channels, n_bands)
        self.share = nn.Linear(channels, n_bands)
        self.stack = WaveNetStack(
            in_channels=2 * n_bands,
            out_channels=n_bands * (self.output.n_parameters + taps * n_bands) + self.n_pairs,
            condition_channels=channels,
            **stack,
        )
        self.look = nn.Conv1d(3 * n_bands, self.stack.channels, kernel_size, padding=kernel_size // 2)
        reach = sum(unit.padding for unit in units) + 1
        steps = kernel_size // 2 + self.pqmf.context_steps
        #: Frames on either side that `prepare` depends on.
        self.context_frames = math.ceil(reach / rate) + math.ceil(steps * n_bands / hop_length)
        self._initialise()

    def _initialise(self) -> None:
        """Start as the parallel decoder with narrow mixtures around it, and without linear prediction."""
        project, n = self.stack.project, self.n_values * self.output.n_parameters
        assert project.bias is not None
        with torch.no_grad():
            for zero in (project.weight[n:], project.bias, self.level.weight, self.share.weight, self.share.bias):
                zero.zero_()
            bias = project.bias[:n].view(self.n_values, 3, self.output.n_mixtures)
            bias[:, 1] = torch.linspace(-0.3, 0.3, self.output.n_mixtures)
            bias[:, 2] = -0.6  # the deviation of a logistic is 1.8 times its scale
            self.level.bias.fill_(-4.0)

    @property
    def n_pairs(self) -> int:
        """Coefficients between the values of one step."""
        return self.n_values * (self.n_values - 1) // 2

    @property
    def steps_per_frame(self) -> int:
        """Steps of the recurrence in a frame."""
        return self.hop_length // self.n_values

    def forward(self, target: Tensor, coded: CodedFrames) -> Tensor:
        """Negative log-likelihood of each value in nats, by teacher forcing.

        Args:
            target: (B, 1, F * hop_length).
            coded: the same frames.

        Returns:
            (B, n_bands, n_steps) float32.
        """
        prepared = self.prepare(coded)
        bands = self.output.on_grid(self.split(target))
        values = bands - prepared.base
        units = self.band_units(prepared.condition).repeat_interleave(self.hold, dim=2)
        past = values
        if self.training and self.input_noise:
            past = values + self.input_noise * units.detach() * torch.randn_like(values)
        outputs = self.outputs(past, prepared)
        parameters, shift = self.parameters_and_shift(outputs, past)
        # Through the shift, not through rounded values: so the share has a gradient.
        return self.output.nll(parameters, bands, shift + prepared.base, units)

    def outputs(self, values: Tensor, prepared: Prepared) -> Tensor:
        """Outputs of the stack (B, out, n_steps) given the values before each step, (B, n_bands, n_steps)."""
        return self.stack(self.inputs(F.pad(values, (1, -1))), prepared.condition, prepared.extra)

    # -- parts, for samplers -------------------------------------------------------------------------------------------

    def prepare(self, coded: CodedFrames) -> Prepared:
        """Condition, extra input and base of a stretch."""
        latents = coded.latents.repeat_interleave(self.rate, dim=2).to(coded.features.dtype)
        condition = self.entry(torch.cat([latents, coded.features], dim=1))
        for unit in self.units:
            condition = unit(condition, coded.speaker)
        bands, source = self.split(coded.parallel), self.split(coded.source) * 0.1
        extra = self.look(torch.cat([bands, compand(bands), source], dim=1))
        with torch.autocast(bands.device.type, enabled=False):
            share = 2 * torch.sigmoid(self.share(condition.float().transpose(1, 2))).transpose(1, 2)
            # Linear between the condition's positions: steps would be audible.
            share = F.interpolate(share, size=bands.shape[-1], mode="linear")
        return Prepared(condition, extra, share * bands)

    def split(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> sub-bands times their gains (B, n_bands, T / n_bands)."""
        return self.pqmf.analysis(waveform) * self.gains

    def join(self, bands: Tensor) -> Tensor:
        """The inverse of `split`, but for the filter bank's error."""
        return self.pqmf.synthesis(bands / self.gains)

    def inputs(self, values: Tensor) -> Tensor:
        """Input of the stack: values (B, n_bands, T), and the same companded (B, 2 * n_bands, T)."""
        return torch.cat([values, compand(values)], dim=1)

    def band_units(self, condition: Tensor) -> Tensor:
        """Units of the mixtures: condition (B, channels, T') -> (B, n_bands, T') float32."""
        with torch.autocast(condition.device.type, enabled=False):
            logarithm = self.level(condition.float().transpose(1, 2)).transpose(1, 2)
            return torch.exp(logarithm.clamp(*UNITS))

    def parameters_and_shift(self, outputs: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters (B, P, n_bands, T) and linear predictions (B, n_bands, T) from the exact values of all steps.

        Args:
            outputs: of the stack (B, out, T).
            values: (B, n_bands, T).
        """
        parameters, coefficients, pairs = self.split_outputs(outputs)
        with torch.autocast(outputs.device.type, enabled=False):
            n_steps = values.shape[-1]
            padded = F.pad(values, (self.taps, 0))
            past = [padded[:, :, self.taps - 1 - k :][..., :n_steps] for k in range(self.taps)]
            shift = (coefficients.float() * torch.cat(past, dim=1).unsqueeze(1)).sum(2)
            rows = [shift[:, 0]]
            for i in range(1, self.n_values):
                same = pairs[:, i * (i - 1) // 2 : i * (i + 1) // 2].float()
                rows.append(shift[:, i] + (same * values[:, :i]).sum(1))
            return parameters, torch.stack(rows, dim=1)

    def split_outputs(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs (B, out, T) -> parameters (B, P, G, T), coefficients (B, G, taps * G, T), pairs (B, n_pairs, T)."""
        n = self.n_values
        sizes = [self.output.n_parameters * n, n * self.taps * n, self.n_pairs]
        parameters, coefficients, pairs = outputs.split(sizes, dim=1)
        return parameters.unflatten(1, (n, -1)).transpose(1, 2), coefficients.unflatten(1, (n, -1)), pairs


def band_temperatures(temperature: float | Sequence[float], n_bands: int) -> list[float]:
    """One temperature for each band, from one for all or a list.

    Raises:
        ValueError: for a list of another length, or a number below 0.
    """
    values = [float(x) for x in ([temperature] * n_bands if isinstance(temperature, int | float) else temperature)]
    if len(values) != n_bands or min(values) < 0:
        raise ValueError(f"temperature {temperature} for {n_bands} sub-bands: give one number, or one for each")
    return values
