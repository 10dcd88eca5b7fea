"""The harmonic source, made from the coded pitch, of whole recordings in batches.

`audiovq.codec.synthesis` makes the same signal while the pitch arrives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from audiovq.codec.synthesis import RAMP, TOP_HZ


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
