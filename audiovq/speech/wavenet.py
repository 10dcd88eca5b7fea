"""The WaveNet decoder: quantized latents and a speaker vector -> a distribution over the waveform, value by value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audiovq.nn.distributions import LogisticMixture, MuLawCategorical, compand
from audiovq.nn.pqmf import PQMF
from audiovq.nn.wavenet_stack import WaveNetStack
from audiovq.speech.backbone import Backbone
from audiovq.speech.draft import DraftReader

#: The least and the greatest unit of a mixture, as logarithms: 80 dB under full scale, and full scale.
LEVELS = (-9.2, 0.0)
OUTPUTS: dict[str, Any] = {"mu_law": MuLawCategorical, "mixture": LogisticMixture}


class WaveNetDecoder(nn.Module):
    """Autoregressive decoder (van den Oord et al. 2017, section 4.2).

    The waveform is a sequence of steps of ``n_values`` values each: one sample; several samples; a value of each
    sub-band; or several of each. The stack runs once a step and says how all values of the next one are distributed::

        latents, speaker -> backbone -> condition (some hundred a second, each held for several steps)
        step t - 1       -> [value, companded value] -> stack -> outputs of step t

    Outputs, in this order (``P`` parameters of the distribution, ``G`` values a step):

    * ``G * P``: parameter p of value i is number ``i * P + p``;
    * with ``taps``, ``G * taps * G`` coefficients: number ``G * P + i * taps * G + k * G + j`` is what value j of step
      ``t - 1 - k`` adds to the locations of value i;
    * with ``taps``, ``G * (G - 1) / 2``: what values of the same step add, for i = 1: j = 0; for i = 2: j = 0, 1; ...

    Mixtures are told in units that the condition sets for each value, `units`: speech spans 60 dB, the codes know the
    level, and what is said of a loud vowel then holds for a quiet one.

    So each value is told by a linear prediction from exact values, whose coefficients change with every step, and by a
    mixture around it (as in LPCNet, Valin and Skoglund 2019, with the coefficients left to the network). The values
    of one step are drawn one after the other, each knowing those before it (as the channels of a pixel, Salimans et al.
    2017).

    Args:
        latent_dim: channels of the quantized latents.
        speaker_dim: length of the speaker vector.
        hop_length: samples per latent.
        backbone: ``channels, dilations, upsample`` of `Backbone`: the learned upsampling.
        stack: ``channels, skip_channels, n_layers, dilation_cycle, kernel_size`` of `WaveNetStack`.
        output: ``kind`` (``mixture`` or ``mu_law``) and the constructor arguments of its class.
        n_bands: sub-bands; 1 for the waveform itself.
        samples_per_step: values of each band in a step.
        taps: steps of the linear prediction; 0 for none.
        input_noise: noise added to the values that are told in training, in units: what the network draws later is not
            as exact as speech, and predictions must not grow from step to step.
        band_gains: factors that bring the bands to similar size within [-1, 1].
        temperature: what `SpeechCodec.decode` draws with: below 1 nearer to the most likely values. One number, or
            one for each sub-band: what codes do not tell of the upper bands is noise, and cold noise is missing.
        draft: ``kernel_size`` of a `DraftReader`: the network is also told what the codec's parallel decoder makes of
            the codes, and models what is left of the waveform when a share of that is taken off. None for none.
    """

    gains: Tensor

    def __init__(
        self,
        latent_dim: int,
        speaker_dim: int,
        hop_length: int,
        backbone: dict[str, Any],
        stack: dict[str, Any],
        output: dict[str, Any],
        n_bands: int = 1,
        samples_per_step: int = 1,
        taps: int = 0,
        input_noise: float = 0.0,
        band_gains: list[float] | None = None,
        temperature: float | list[float] = 1.0,
        draft: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(  # noqa: C408
            latent_dim=latent_dim,
            speaker_dim=speaker_dim,
            hop_length=hop_length,
            backbone=backbone,
            stack=stack,
            output=output,
            n_bands=n_bands,
            samples_per_step=samples_per_step,
            taps=taps,
            input_noise=input_noise,
            band_gains=band_gains,
            temperature=temperature,
            draft=draft,
        )
        self.latent_dim, self.hop_length, self.n_bands, self.taps = latent_dim, hop_length, n_bands, taps
        self.samples_per_step, self.input_noise = samples_per_step, input_noise
        #: One for each value of a step.
        self.temperature = temperatures(temperature, n_bands) * samples_per_step
        #: Values of a step, which are as many as the samples it stands for.
        self.n_values = n_bands * samples_per_step
        self.output = OUTPUTS[output["kind"]](**{k: v for k, v in output.items() if k != "kind"})
        if taps and not isinstance(self.output, LogisticMixture):
            raise ValueError("only a mixture of logistics has locations for a linear prediction to move")
        self.pqmf = PQMF(n_bands)
        gains = [1.0] * n_bands if band_gains is None else band_gains
        self.register_buffer("gains", torch.tensor(gains).view(-1, 1), persistent=False)
        self.backbone = Backbone(latent_dim, speaker_dim, **backbone)
        width = self.backbone.channels[-1]
        self.voice = nn.Linear(speaker_dim, width)
        #: Steps for which one position of the condition is held.
        self.hold, left = divmod(hop_length, self.n_values * self.backbone.rate)
        if left or len(gains) != n_bands:
            raise ValueError(f"a hop of {hop_length} must hold whole steps of {self.n_values} at the condition's rate")
        self.n_coefficients = (self.n_values * taps * self.n_values + self._n_pairs) if taps else 0
        self.stack = WaveNetStack(
            in_channels=2 * self.n_values,
            out_channels=self.output.n_parameters * self.n_values + self.n_coefficients,
            condition_channels=width,
            **stack,
        )
        self.draft = None if draft is None else DraftReader(self.n_values, self.stack.channels, width, **draft)
        if draft is not None and not isinstance(self.output, LogisticMixture):
            raise ValueError("only a mixture of logistics can model what a draft leaves")
        if self.draft is not None and self.draft.context_steps + self.pqmf.context_steps > self.steps_per_frame:
            raise ValueError(f"a draft is read one latent ahead: kernel_size {draft} is too much")
        #: Latents on either side that one position of the condition may depend on.
        self.context_frames = math.ceil(self.backbone.reach) + (draft is not None)  # the share looks one position on
        mixture = isinstance(self.output, LogisticMixture)
        self.level = nn.Linear(width, self.n_values) if mixture else None
        self._start()

    def _start(self) -> None:
        """A start from which few steps are lost: no prediction, no voice, mixtures as narrow as speech is small."""
        project, n = self.stack.project, self.n_values * self.output.n_parameters
        assert project.bias is not None
        with torch.no_grad():
            for zero in (project.weight[n:], project.bias, self.voice.weight, self.voice.bias):
                zero.zero_()
            if isinstance(self.output, LogisticMixture):
                bias = project.bias[:n].view(self.n_values, 3, self.output.n_mixtures)
                bias[:, 1] = torch.linspace(-0.3, 0.3, self.output.n_mixtures)
                bias[:, 2] = -0.6  # the deviation of a logistic is 1.8 times its scale
            if self.level is not None:
                self.level.weight.zero_()
                self.level.bias.fill_(-4.0)

    @property
    def has_extra(self) -> bool:
        """Whether the stack has an extra input at each step."""
        return self.draft is not None

    @property
    def _n_pairs(self) -> int:
        return self.n_values * (self.n_values - 1) // 2

    @property
    def steps_per_frame(self) -> int:
        """Steps for one latent."""
        return self.hop_length // self.n_values

    def forward(self, waveform: Tensor, latents: Tensor, speaker: Tensor, draft: Tensor | None = None) -> Tensor:
        """Teacher forcing: the negative log-likelihood of each value, in nats.

        Args:
            waveform: (B, 1, T), T a multiple of ``hop_length``.
            latents: (B, C, T / hop_length).
            speaker: (B, S).
            draft: (B, 1, T), of the parallel decoder, where the network reads one.

        Returns:
            (B, n_values, T / n_values) float32.
        """
        condition = self.condition(latents, speaker)
        values, extra = self.to_values(waveform), None
        if self.draft is not None:
            extra, base = self.read_draft(draft, condition)
            values = values - base
        projected, units = self.stack.project_condition(condition), self.units(condition)
        if units is not None:
            units = units.repeat_interleave(self.hold, dim=2)
        told = values
        if self.training and self.input_noise and units is not None:
            told = values + self.input_noise * units.detach() * torch.randn_like(values)
        before = torch.nn.functional.pad(told, (1, -1))
        state = self.stack.initial_state(len(values), before)
        outputs = self.stack.advance(self.inputs(before), projected, state, extra)
        parameters, shift = self.parameters_and_shift(outputs, told)
        if units is None:
            return self.output.nll(parameters, values)
        return self.output.nll(parameters, values, shift, units)

    def read_draft(self, draft: Tensor | None, condition: Tensor) -> tuple[Tensor, Tensor]:
        """What the stack gets of a draft (B, 1, T), (B, channels, T / n_values), and what is taken off the values.

        Raises:
            ValueError: without a draft.
        """
        if draft is None or self.draft is None:
            raise ValueError("this WaveNet reads a draft: give it the parallel decoder's waveform")
        values = self.split_waveform(draft.detach())
        return self.draft.features(values), self.draft.base(values, condition)

    def bits_per_sample(self, nll: Tensor) -> Tensor:
        """The mean of `forward`'s result in bits for a sample of the waveform, whatever the bands and their gains."""
        density = torch.log(self.gains / math.sqrt(self.n_bands)).mean()  # bands times sqrt(n_bands) are orthonormal
        return (nll.mean() - density) / math.log(2)

    # -- the parts, for samplers ------------------------------------------------------------------------------------

    def condition(self, latents: Tensor, speaker: Tensor) -> Tensor:
        """Latents (B, C, F), speaker vector (B, S) -> condition of the stack (B, channels, F * rate)."""
        features = self.backbone.features(latents, speaker)
        return features + self.voice(speaker).unsqueeze(-1).to(features.dtype)

    def to_values(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> values on the distribution's grid (B, n_values, T / n_values)."""
        return self.output.on_grid(self.split_waveform(waveform))

    def split_waveform(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> values of steps (B, n_values, T / n_values), as they are."""
        bands = self.pqmf.analysis(waveform) * self.gains
        return bands.unflatten(-1, (-1, self.samples_per_step)).permute(0, 3, 1, 2).flatten(1, 2)

    def to_bands(self, values: Tensor) -> Tensor:
        """Values (B, n_values, T) -> sub-bands (B, n_bands, T * samples_per_step)."""
        steps = values.unflatten(1, (self.samples_per_step, self.n_bands)).permute(0, 2, 3, 1)
        return steps.flatten(2) / self.gains

    def inputs(self, values: Tensor) -> Tensor:
        """What the stack is fed for values (B, n_values, T): these, and these companded (B, 2 * n_values, T)."""
        return torch.cat([values, compand(values)], dim=1)

    def units(self, condition: Tensor) -> Tensor | None:
        """Of the mixtures: condition (B, channels, T') -> (B, n_values, T') float32; None for mu-law."""
        if self.level is None:
            return None
        with torch.autocast(condition.device.type, enabled=False):
            logarithm = self.level(condition.float().transpose(1, 2)).transpose(1, 2)
            return torch.exp(logarithm.clamp(*LEVELS))

    def parameters_and_shift(self, outputs: Tensor, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Split the outputs of the stack, and predict from the values themselves.

        Args:
            outputs: (B, out, T).
            values: (B, n_values, T), known beforehand: teacher forcing.

        Returns:
            Parameters (B, n_parameters, n_values, T), and the shift of the locations (B, n_values, T) or None.
        """
        parameters, coefficients, pairs = self.split(outputs)
        if not self.taps:
            return parameters, None
        with torch.autocast(outputs.device.type, enabled=False):
            n_steps = values.shape[-1]
            padded = torch.nn.functional.pad(values, (self.taps, 0))
            past = [padded[:, :, self.taps - 1 - k :][..., :n_steps] for k in range(self.taps)]
            shift = (coefficients.float() * torch.cat(past, dim=1).unsqueeze(1)).sum(2)
            rows = [shift[:, 0]]
            for i in range(1, self.n_values):
                own = pairs[:, i * (i - 1) // 2 : i * (i + 1) // 2].float()
                rows.append(shift[:, i] + (own * values[:, :i]).sum(1))
            return parameters, torch.stack(rows, dim=1)

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs (B, out, T) -> parameters (B, P, G, T), coefficients (B, G, taps * G, T), pairs (B, n_pairs, T)."""
        n = self.n_values
        parameters, rest = outputs.split([self.output.n_parameters * n, self.n_coefficients], dim=1)
        pairs = self._n_pairs if self.taps else 0
        coefficients, pair_coefficients = rest.split([self.n_coefficients - pairs, pairs], dim=1)
        return parameters.unflatten(1, (n, -1)).transpose(1, 2), coefficients.unflatten(1, (n, -1)), pair_coefficients


class WaveNetState:
    """What a batch of streams remembers between steps: the layers' memories and the last values."""

    def __init__(self, decoder: WaveNetDecoder, batch_size: int = 1) -> None:
        self.layers = decoder.stack.initial_state(batch_size)
        #: (B, n_values, max(taps, 1)), the latest first.
        self.past = self.layers[0].new_zeros(batch_size, decoder.n_values, max(decoder.taps, 1))


@torch.inference_mode()
def temperatures(temperature: float | Sequence[float], n_bands: int) -> list[float]:
    """One for each sub-band, from one for all or a list of them.

    Raises:
        ValueError: for a list of another length, or one below 0.
    """
    found = [float(x) for x in ([temperature] * n_bands if isinstance(temperature, (int, float)) else temperature)]
    if len(found) != n_bands or min(found) < 0:
        raise ValueError(f"temperature {temperature} for {n_bands} sub-bands: give one number, or one for each")
    return found


def draw(
    decoder: WaveNetDecoder,
    condition: Tensor,
    uniform: Tensor,
    state: WaveNetState,
    temperature: float | Sequence[float] = 1.0,
    extra: Tensor | None = None,
) -> Tensor:
    """Sample step by step with torch: the plain way, which faster samplers are compared with.

    Args:
        condition: of the stack (B, channels, T'), as `WaveNetDecoder.condition` gives it.
        uniform: noise in (0, 1), (B, n_uniform, n_values, T' * hold).
        state: moved on.
        temperature: of the distribution; one number, or one for each value of a step.
        extra: what the stack gets of a draft (B, channels, T' * hold), as `WaveNetDecoder.read_draft` gives it.

    Returns:
        Values (B, n_values, T' * hold), without what was taken off for a draft.
    """
    values = []
    projected, units = decoder.stack.project_condition(condition), decoder.units(condition)
    for t in range(uniform.shape[-1]):
        at = t // decoder.hold
        inputs = decoder.inputs(state.past[:, :, :1])
        own = None if extra is None else extra[:, :, t, None]
        outputs = decoder.stack.advance(inputs, projected[:, :, at, None], state.layers, own)
        unit = None if units is None else units[:, :, at]
        step = draw_step(decoder, outputs, uniform[..., t], state.past, unit, temperature)
        state.past = torch.cat([step.unsqueeze(-1), state.past[:, :, :-1]], dim=2)
        values.append(step)
    return torch.stack(values, dim=-1)


def draw_step(
    decoder: WaveNetDecoder,
    outputs: Tensor,
    uniform: Tensor,
    past: Tensor,
    unit: Tensor | None,
    temperature: float | Sequence[float],
) -> Tensor:
    """The values of one step (B, n_values).

    Args:
        outputs: of the stack (B, out, 1).
        uniform: (B, n_uniform, n_values).
        past: values (B, n_values, taps), the latest first.
        unit: of the mixtures (B, n_values).
        temperature: of the distribution; one number, or one for each value.
    """
    parameters, coefficients, pairs = (part[..., 0] for part in decoder.split(outputs.float()))
    warmth = torch.as_tensor(temperature, dtype=torch.float32).expand(decoder.n_values)
    if unit is None:
        return decoder.output.sample(parameters, uniform, temperature=warmth)
    shift = torch.zeros_like(unit)
    if decoder.taps:
        shift = (coefficients * past.transpose(1, 2).flatten(1).unsqueeze(1)).sum(2)
    step: list[Tensor] = []
    for i in range(decoder.n_values):
        moved = shift[:, i]
        for j, value in enumerate(step if decoder.taps else []):
            moved = moved + pairs[:, i * (i - 1) // 2 + j] * value
        known = {"shift": moved[:, None], "unit": unit[:, i, None]}
        drawn = decoder.output.sample(parameters[:, :, i, None], uniform[:, :, i, None], **known, temperature=warmth[i])
        step.append(drawn[:, 0])
    return torch.stack(step, dim=1)
