"""The two signals that the decoder shapes: a harmonic source from the coded pitch, and noise from a fixed table."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TOP_HZ = 7900.0
"""No harmonic lies above; Nyquist is at 8 kHz."""
NOISE_SCALE = 4096
"""Value of 1.0 in the file of the noise table."""
RAMP = 80
"""Samples over which the source rises where voicing begins, and falls where it ends."""


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


class HarmonicSource:
    """The harmonic source of one channel, frame by frame: equal to the bit however the frames are cut into pieces.

    Args:
        hop_length: samples of a frame.
        sample_rate: Hz.
    """

    def __init__(self, hop_length: int, sample_rate: int) -> None:
        self.hop_length, self.sample_rate = hop_length, sample_rate
        self._phase = 0.0  # cycles at the beginning of the next frame
        self._before = 0.0  # Hz of the frame before that

    def next(self, f0: np.ndarray, after: float) -> np.ndarray:
        """Samples of the next frames.

        Args:
            f0: (F,) float64 Hz of the frames, 0 where unvoiced.
            after: Hz of the frame that follows them, 0 at the end of the recording.

        Returns:
            (F * hop_length,) float32.
        """
        if len(f0) == 0:
            return np.zeros(0, np.float32)
        padded = torch.from_numpy(np.concatenate([[self._before], f0, [after]]))[None]
        frequency = instantaneous_frequency(padded, self.hop_length)
        cycles = np.cumsum(frequency[0].numpy() / self.sample_rate, axis=1)
        starts = np.empty(len(f0))
        phase, before = self._phase, self._before
        for i, hz in enumerate(f0):
            if before == 0.0:
                phase = 0.0
            starts[i] = phase
            phase = (phase + cycles[i, -1]) % 1.0
            before = hz
        self._phase, self._before = phase, float(f0[-1])
        where = torch.from_numpy(np.remainder(starts[:, None] + cycles, 1.0)).float()
        wave = pulse_train(where, frequency[0].float()) * envelope_of_voicing(padded, self.hop_length)[0].float()
        return wave.flatten().numpy()


def smooth_noise(n_samples: int, window_length: int = 320, iterations: int = 50) -> np.ndarray:
    """White noise of unit power whose short-time magnitudes are nearly constant, periodic in its length.

    Magnitudes of Gaussian noise fluctuate by half of their mean in every bin of every window: beside a recording, whose
    own noise fluctuates in its own way, that doubles the distance to it. Starting from Gaussian noise, this
    alternates between equal magnitudes and spectra that belong to a signal (Griffin and Lim 1984).

    Args:
        n_samples: a multiple of a quarter of ``window_length``.
        window_length: of the Hann windows, in samples.
        iterations: after 50 the fluctuation is a fifth of the mean.

    Returns:
        (n_samples,) float64.
    """
    step = window_length // 4
    if n_samples % step:
        raise ValueError(f"{n_samples} samples are no multiple of {step}")
    window = np.hanning(window_length + 1)[:-1]
    place = (np.arange(0, n_samples, step)[:, None] + np.arange(window_length)) % n_samples
    noise: np.ndarray = np.random.RandomState(0).standard_normal(n_samples)
    for _ in range(iterations):
        spectra = np.fft.rfft(noise[place] * window)
        frames = np.fft.irfft(spectra / np.abs(spectra).clip(1e-6), window_length) * window
        noise = np.bincount(place.ravel(), frames.ravel(), n_samples)
        noise = noise / noise.std()
    return noise


def noise_table(n_frames: int, hop_length: int) -> Tensor:
    """`smooth_noise` of unit power, (n_frames * hop_length,), the same on every machine and with every version.

    It is read from `noise.npy`, sixteen bits a sample, and starts again behind its end.
    """
    path = Path(__file__).with_name("noise.npy")
    return torch.from_numpy(np.resize(np.load(path), n_frames * hop_length) / np.float32(NOISE_SCALE))
