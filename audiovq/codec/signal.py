"""Signal processing around the networks, in NumPy: level and offset, harmonic source and noise, overlap-add."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from audiovq.errors import AudioVQError
from audiovq.interfaces import LOWEST_HZ, STEPS_PER_OCTAVE, UNVOICED, CodecShape
from audiovq.io import checked

if TYPE_CHECKING:
    from torch import Tensor


TARGET_DB = -14.0
"""Level, dB of full scale, that the loudest frame of a packet is brought to before it is coded."""
LOWEST_DB = -90.0
"""Quieter packets are not raised any further."""
STEP_DB = 0.5
"""Step of the level codes."""
N_LEVELS = 255
"""Level codes: -100 to 27 dB."""
FALL_DB = 5.0
"""dB by which the level may fall in a second, so that pauses stay quieter than the speech around them."""
_CUTOFF_HZ = 20.0
_BLOCK = 64


class HighPass:
    """Second-order Butterworth high-pass at 20 Hz for one channel in pieces.

    It starts settled on the first sample: a constant offset changes nothing, from the first sample on. The recursion of
    its complex pole is summed by doubling within blocks whose places do not depend on the pieces.
    """

    def __init__(self, sample_rate: int) -> None:
        # The bilinear transform of s^2 / (s^2 + sqrt(2) s + 1), at its cut-off: gain * (1 - 1/z)^2 over both poles.
        k = math.tan(math.pi * _CUTOFF_HZ / sample_rate)
        self._gain = 1 / (1 + math.sqrt(2) * k + k * k)
        real, square = (1 - k * k) * self._gain, (1 - math.sqrt(2) * k + k * k) * self._gain
        self._pole = complex(real, math.sqrt(square - real * real))
        self._recent: np.ndarray | None = None  # two samples before the block, and what there is of it
        self._sum = 0j  # of the recursion at the block's beginning

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """(n,) float -> (n,) float32."""
        samples = np.asarray(samples, np.float64)
        if not len(samples):
            return samples.astype(np.float32)
        recent = np.full(2, samples[0]) if self._recent is None else self._recent
        known = len(recent) - 2
        x = np.concatenate([recent, samples])
        curve = x[2:] - 2 * x[1:-1] + x[:-2]
        n_whole = len(curve) // _BLOCK
        blocks = np.zeros((n_whole + 1, _BLOCK))
        blocks.reshape(-1)[: len(curve)] = curve
        sums, self._sum = self._recursion(blocks, n_whole)
        self._recent = x[n_whole * _BLOCK :]
        # Both poles together: twice the real part of sum * pole / (pole - conjugate).
        weight = 2 * self._gain * self._pole / complex(0, 2 * self._pole.imag)
        filtered = sums[0] * weight.real - sums[1] * weight.imag
        return filtered.reshape(-1)[known : len(curve)].astype(np.float32)

    def _recursion(self, blocks: np.ndarray, n_whole: int) -> tuple[list[np.ndarray], complex]:
        """Real and imaginary parts of s[t] = x[t] + pole * s[t - 1], and s at the end of the whole blocks."""
        real, imaginary = blocks, np.zeros_like(blocks)
        step, power = 1, self._pole
        while step < _BLOCK:
            a, b = real[:, :-step], imaginary[:, :-step]
            more = a * power.real - b * power.imag, a * power.imag + b * power.real
            real, imaginary = real.copy(), imaginary.copy()
            real[:, step:] += more[0]
            imaginary[:, step:] += more[1]
            step, power = 2 * step, power * power
        before, last = np.empty(len(blocks), complex), self._sum
        for i, (a, b) in enumerate(zip(real[:, -1].tolist(), imaginary[:, -1].tolist(), strict=True)):
            before[i] = last
            last = complex(a, b) + power * last
        carried = self._pole ** np.arange(1, _BLOCK + 1)
        a, b = before.real[:, None], before.imag[:, None]
        real = real + (a * carried.real - b * carried.imag)
        imaginary = imaginary + (a * carried.imag + b * carried.real)
        return [real, imaginary], complex(before[n_whole])


def loudest_frame(samples: np.ndarray, hop_length: int) -> float:
    """Level in dB of full scale of the loudest frame, with its two neighbours, of (T,) samples, a hop or more."""
    frames = samples[: len(samples) // hop_length * hop_length].reshape(-1, hop_length)
    power = np.pad(np.square(frames, dtype=np.float32).mean(axis=1), 1)
    count = np.full(len(frames), 3)
    count[0] -= 1
    count[-1] -= 1
    mean = (power[:-2] + power[1:-1] + power[2:]) / count
    return 10 * math.log10(float(mean.max()) + 1e-12)


def frame_levels(waveform: Tensor, hop_length: int) -> Tensor:
    """Level in dB of full scale of each frame with its two neighbours: (B, T) -> (B, T // hop_length)."""
    import torch
    from torch.nn.functional import avg_pool1d

    power = waveform.float().unfold(-1, hop_length, hop_length).square().mean(-1)
    mean = avg_pool1d(power[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    return 10 * torch.log10(mean + 1e-12)


def quantize_level(level_db: float) -> int:
    """dB -> level code."""
    return int(np.clip(round((level_db + 100.0) / STEP_DB), 0, N_LEVELS - 1))


def dequantize_level(codes: Any) -> Any:
    """Level codes, a number or an array or tensor of them -> dB."""
    return codes * STEP_DB - 100.0


TOP_HZ = 7900.0
"""No harmonic lies above; Nyquist is at 8 kHz."""
SILENT_GAIN = -100.0
"""A log-gain with which nothing is heard."""
NOISE_SCALE = 4096
"""Value of 1.0 in the file of the noise table."""
RAMP = 80
"""Samples over which the source rises where voicing begins, and falls where it ends."""


class HarmonicSource:
    """The harmonic source of one channel, frame by frame: equal to the bit however the frames are cut into pieces."""

    def __init__(self, hop_length: int, sample_rate: int) -> None:
        self.hop_length, self.sample_rate = hop_length, sample_rate
        self._phase = 0.0  # cycles at the beginning of the next frame
        self._before = 0.0  # Hz of the frame before that
        ramp = np.sin((np.arange(RAMP) + 0.5) / RAMP * (math.pi / 2)) ** 2
        self._rise = np.concatenate([ramp, np.ones(hop_length - RAMP)]).astype(np.float32)

    def next(self, f0: np.ndarray, after: float) -> np.ndarray:
        """Hz (F,) float64 of the next frames, 0 where unvoiced -> samples (F * hop_length,) float32.

        ``after`` is that of the frame that follows them, 0 at the end of the recording.
        """
        if len(f0) == 0:
            return np.zeros(0, np.float32)
        padded = np.concatenate([[self._before], f0, [after]])
        frequency = _instantaneous_frequency(padded, self.hop_length)
        cycles = np.cumsum(frequency / self.sample_rate, axis=1)
        starts = np.empty(len(f0))
        phase, before = self._phase, self._before
        for i, hz in enumerate(f0):
            if before == 0.0:
                phase = 0.0
            starts[i] = phase
            phase = (phase + cycles[i, -1]) % 1.0
            before = hz
        self._phase, self._before = phase, float(f0[-1])
        wave = np.zeros((len(f0), self.hop_length), np.float32)
        voiced = f0 > 0
        where = np.remainder(starts[:, None] + cycles, 1.0)[voiced].astype(np.float32)
        wave[voiced] = _pulse_train(where, frequency[voiced].astype(np.float32))
        wave[voiced & (padded[:-2] == 0)] *= self._rise
        wave[voiced & (padded[2:] == 0)] *= self._rise[::-1]
        return wave.reshape(-1)


def _instantaneous_frequency(f0: np.ndarray, hop_length: int) -> np.ndarray:
    """(F + 2,) Hz -> (F, hop_length) Hz, see `audiovq.codec.decoder.instantaneous_frequency`."""
    before, here, after = f0[:-2], f0[1:-1], f0[2:]
    before, after = np.where(before > 0, before, here), np.where(after > 0, after, here)
    place = (np.arange(hop_length // 2) + 0.5) / hop_length
    rising = before[:, None] + (here - before)[:, None] * (0.5 + place)
    falling = here[:, None] + (after - here)[:, None] * place
    return np.concatenate([rising, falling], axis=1) * (here > 0)[:, None]


def _pulse_train(phase: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Cycles and Hz, float32, above 0 -> samples, see `audiovq.codec.decoder.pulse_train`."""
    room = np.float32(TOP_HZ) / np.maximum(frequency, np.float32(40.0))
    harmonics = np.floor(room)
    angle = np.float32(2 * math.pi) * phase
    sine = np.sin(angle / 2)
    flat = np.abs(sine) < 1e-4
    below = harmonics - 1
    kernel = np.sin((below + np.float32(0.5)) * angle) / (2 * np.where(flat, np.float32(1.0), sine)) - np.float32(0.5)
    kernel = np.where(flat, below, kernel) + (room - harmonics) * np.cos(harmonics * angle)
    return kernel * np.sqrt(np.float32(2.0) / room)


def hz_of(codes: np.ndarray) -> np.ndarray:
    """Pitch codes (any shape) -> fundamental frequency in Hz, float64; 0 where unvoiced."""
    codes = np.asarray(codes)
    return np.where(codes > UNVOICED, LOWEST_HZ * np.exp2((codes - 1.0) / STEPS_PER_OCTAVE), 0.0)


def smooth_noise(n_samples: int, window_length: int = 320, iterations: int = 50) -> np.ndarray:
    """White noise of unit power whose short-time magnitudes are nearly constant, periodic in its length.

    Magnitudes of Gaussian noise fluctuate by half of their mean in every bin of every window: beside a recording, whose
    own noise fluctuates in its own way, that doubles the distance to it. Starting from Gaussian noise, this
    alternates between equal magnitudes and spectra that belong to a signal (Griffin and Lim 1984).

    Args:
        n_samples: of the result (float64), a multiple of a quarter of ``window_length``, that of the Hann windows.
        iterations: after 50 the fluctuation is a fifth of the mean.
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


def noise_table(n_frames: int, hop_length: int) -> np.ndarray:
    """`smooth_noise` of unit power, (n_frames * hop_length,), the same on every machine and with every version.

    It is read from `noise.safetensors`, sixteen bits a sample, and starts again behind its end.

    Raises:
        AudioVQError: when that file is damaged or missing.
    """
    from safetensors.numpy import load

    path = Path(__file__).with_name("noise.safetensors")
    try:
        noise = load(checked(path.read_bytes()))["noise"]
    except Exception as error:
        raise AudioVQError(f"{path} is damaged ({error}): install audiovq again") from error
    return np.resize(noise, n_frames * hop_length) / np.float32(NOISE_SCALE)


NOISE_FRAMES = 2048
"""Short frames of the noise table; it starts again behind them."""


class Synthesizer:
    """Shapes the harmonic source and noise by the decoder's gains; see `audiovq.codec.decoder.SourceFilterDecoder`."""

    def __init__(self, shape: CodecShape) -> None:
        self.shape = shape
        # The periodic Hann window.
        angle = 2 * np.pi * np.arange(shape.n_fft) / shape.n_fft
        hann = 0.5 - 0.5 * np.cos(angle)
        self._window = hann.astype(np.float32)
        self._synthesis = (hann / (np.square(hann).sum() / shape.step)).astype(np.float32)

    @cached_property
    def noise(self) -> np.ndarray:
        """Windowed spectra (NOISE_FRAMES, bins) of noise that repeats behind them."""
        table, trim = noise_table(NOISE_FRAMES, self.shape.step), self.shape.trim
        return self._spectra(np.concatenate([table[-trim:], table, table[:trim]]))

    def __call__(
        self, gains: np.ndarray, direct: np.ndarray | None, frames: range, first: int, last: int, source: np.ndarray
    ) -> np.ndarray:
        """Samples ((last - first) * hop_length,) float32 of frames ``first`` to ``last``.

        Args:
            gains: (N, 4 * bins) of the sources: log-gain, real and imaginary parts; log-gain of the noise.
            direct: (N, 3 * bins) log-gain, real and imaginary parts of the part without a source, or None.
            frames: the N short frames, see `CodecShape.short_frames`.
            source: harmonic source from ``margin`` samples before the wanted ones to as many behind; zeros before the
                recording and after it.
        """
        shape = self.shape
        origin = frames.start * shape.step - shape.trim  # of the first short frame, in the recording
        offset = origin - (first * shape.hop_length - shape.margin)
        harmonics = self._spectra(source[offset : offset + (len(frames) - 1) * shape.step + shape.n_fft])
        bins = harmonics.shape[1]
        spectrum = harmonics * _complex(gains[:, : 3 * bins], 4.0)
        noise = self.noise[np.arange(frames.start, frames.stop) % NOISE_FRAMES]
        spectrum += noise * np.exp(np.minimum(gains[:, 3 * bins :], 4.0))
        if direct is not None:
            spectrum += _complex(direct, 6.0)
        pieces = np.fft.irfft(spectrum, n=shape.n_fft, axis=1).astype(np.float32, copy=False) * self._synthesis
        begin = first * shape.hop_length - origin
        return self._add(pieces)[begin : begin + (last - first) * shape.hop_length]

    def _spectra(self, samples: np.ndarray) -> np.ndarray:
        windows = sliding_window_view(samples, self.shape.n_fft)[:: self.shape.step] * self._window
        return np.fft.rfft(windows, axis=1).astype(np.complex64, copy=False)

    def _add(self, pieces: np.ndarray) -> np.ndarray:
        """Overlap-add: (N, n_fft) -> ((N - 1) * step + n_fft,)."""
        overlap, step = self.shape.overlap, self.shape.step
        total = np.zeros((len(pieces) + overlap - 1, step), np.float32)
        for i in range(overlap):
            total[i : i + len(pieces)] += pieces[:, i * step : (i + 1) * step]
        return total.reshape(-1)


def _complex(parts: np.ndarray, largest: float) -> np.ndarray:
    """(N, 3 * bins) log-gain (at most ``largest``), real and imaginary parts -> complex gains (N, bins)."""
    size, real, imaginary = np.split(parts, 3, axis=1)
    size = np.exp(np.minimum(size, largest))
    gains = np.empty(size.shape, np.complex64)
    gains.real, gains.imag = size * real, size * imaginary
    return gains
