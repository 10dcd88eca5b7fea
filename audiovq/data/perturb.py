"""Speech that says the same with another throat: what an encoder is shown so that its codes do not tell who speaks.

The codec still has to decode the recording as it was. What the perturbation changes at random can not be read from the
codes, so it has to come from the speaker vector: register, formants, the sound of the microphone (Choi et al. 2021,
NANSY, section 3.1; Qian et al. 2022, ContentVec, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from audiovq.data.overlap import shift_by_overlap
from audiovq.data.utterance import SAMPLE_RATE

_N_FFT, _HOP = 512, 128
_BINS = _N_FFT // 2 + 1
_QUEFRENCY = 30  # samples (1.9 ms): smooth over the partials of voices up to 500 Hz
_FLOOR = 1e-4
_LARGEST_GAIN = 3.5  # nepers, 30 dB
_SHIFTED_UP_TO = 4000.0  # Hz; above, speech is noise rather than partials, and shifting down would leave a hole
_EQ_POINTS = 8
_PERIOD = 1 << 16


@dataclass(frozen=True)
class Perturbation:
    """Random changes of a crop that keep its words, its timing and the shape of its melody.

    Attributes:
        formant: formants are scaled by a factor of up to this in either direction, log-uniformly (vocal tracts of other
            lengths).
        pitch_share: share of items whose pitch is moved; the others keep pitch and phase.
        pitch_semitones: by up to so many in either direction, the same over the crop.
        eq_db: size of a smooth random equalisation.
        noise_db: range of the signal-to-noise ratio of added noise, or None.
        clean_share: share of items left as they are.
    """

    formant: float = 1.25
    pitch_share: float = 0.3
    pitch_semitones: float = 8.0
    eq_db: float = 6.0
    noise_db: tuple[float, float] | None = (25.0, 60.0)
    clean_share: float = 0.0

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        """(T,) float32 at 16 kHz -> (T,) changed, of the same loudness, and whether its pitch was moved.

        The draws depend on ``rng`` alone, not on the samples.
        """
        clean = rng.random() < self.clean_share
        moved = rng.random() < self.pitch_share and not clean
        semitones = float(rng.uniform(-self.pitch_semitones, self.pitch_semitones))
        formant = float(self.formant ** rng.uniform(-1, 1))
        points = rng.normal(0.0, self.eq_db, _EQ_POINTS)
        noise = rng.uniform(*self.noise_db) if self.noise_db is not None else None
        tilt, place = rng.uniform(0, 1), int(rng.integers(_PERIOD))
        if clean or not np.any(samples):
            return samples.copy(), False
        out = reshape(samples, semitones if moved else 0.0, formant, equaliser(points))
        size = float(np.sqrt(np.mean(np.square(samples))))
        out *= size / max(float(np.sqrt(np.mean(np.square(out)))), 1e-9)
        if noise is not None:
            out += size * np.float32(10 ** (-noise / 20)) * _noise(len(out), float(tilt), place)
        return out, moved


def reshape(samples: np.ndarray, semitones: float, formant: float, gain: Tensor | None = None) -> np.ndarray:
    """(T,) -> (T,) with another pitch, formants and timbre, frame by frame in time with what came in.

    The spectral envelope is the cepstrally smoothed one; its frequencies are scaled by ``formant``. Without a shift of
    pitch the phases stay: partials are where they were, only as loud as the new envelope says.

    Args:
        gain: log-amplitudes to add to the envelope, (257,), or None.
    """
    waveform = torch.from_numpy(np.ascontiguousarray(samples, np.float32))
    own = _spectrum(waveform)
    envelope = _smoother() @ _level(own)
    source, present = own, envelope
    if semitones:
        shifted = _spectrum(torch.from_numpy(shift_by_overlap(samples, 2.0 ** (semitones / 12))))
        source = torch.lerp(own, shifted, _crossover())
        present = _smoother() @ _level(source)
    change = _warper(round(float(np.log(formant)), 4)) @ envelope - present
    if gain is not None:
        change = change + gain[:, None]
    spectrum = source * torch.exp(change.clamp(-_LARGEST_GAIN, _LARGEST_GAIN))
    out = torch.istft(spectrum, _N_FFT, _HOP, window=_window(), length=len(samples))
    return out.numpy()


@lru_cache(maxsize=1)
def _window() -> Tensor:
    return torch.hann_window(_N_FFT)


def _spectrum(waveform: Tensor) -> Tensor:
    """(T,) -> complex (257, frames)."""
    return torch.stft(waveform, _N_FFT, _HOP, window=_window(), pad_mode="constant", return_complex=True)


def _level(spectrum: Tensor) -> Tensor:
    return torch.log(spectrum.abs() + _FLOOR)


@lru_cache(maxsize=1)
def _smoother() -> Tensor:
    """Liftering of a log-spectrum as a matrix (257, 257)."""
    quefrency = np.arange(_BINS)
    lifter = np.where(quefrency < _QUEFRENCY, 0.5 + 0.5 * np.cos(np.pi * quefrency / _QUEFRENCY), 0.0)
    cepstra = np.fft.irfft(np.eye(_BINS), axis=1)[:, :_BINS]
    weights = np.full(_BINS, 2.0)
    weights[[0, -1]] = 1.0
    cosines = np.cos(np.outer(quefrency, np.arange(_BINS)) * (np.pi / (_BINS - 1)))
    return torch.from_numpy(((cepstra * lifter * weights) @ cosines).T.copy()).float()


@lru_cache(maxsize=1)
def _crossover() -> Tensor:
    """How much of the shifted spectrum counts at each frequency, (257, 1)."""
    hertz = torch.linspace(0, SAMPLE_RATE / 2, _BINS)
    return ((1.15 * _SHIFTED_UP_TO - hertz) / (0.3 * _SHIFTED_UP_TO)).clamp(0, 1)[:, None].to(torch.complex64)


def _warper(log_factor: float) -> Tensor:
    """Scaling of an envelope's frequencies as a matrix (257, 257): linear interpolation, the top value held."""
    position = (np.arange(_BINS) * np.exp(-log_factor)).clip(0, _BINS - 1)
    low = np.minimum(position.astype(np.int64), _BINS - 2)
    share = (position - low).astype(np.float32)
    matrix = np.zeros((_BINS, _BINS), np.float32)
    matrix[np.arange(_BINS), low] = 1 - share
    matrix[np.arange(_BINS), low + 1] += share
    return torch.from_numpy(matrix)


def equaliser(points: np.ndarray) -> Tensor:
    """Gains in dB at places even in mel -> log-amplitudes (257,)."""
    mel = np.log1p(np.linspace(0, SAMPLE_RATE / 2, _BINS) / 700)
    curve = np.interp(mel, np.linspace(0, mel[-1], len(points)), points)
    return torch.from_numpy((curve * (np.log(10) / 20)).astype(np.float32))


@lru_cache(maxsize=1)
def _noises() -> np.ndarray:
    """White and low-pass noise of unit power, (2, period)."""
    white = np.random.RandomState(0).standard_normal(_PERIOD)
    spectrum = np.fft.rfft(white)
    low = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)) / _PERIOD * SAMPLE_RATE, 100.0))
    return np.stack([white, low / low.std()]).astype(np.float32)


def _noise(n_samples: int, tilt: float, place: int) -> np.ndarray:
    """Noise of unit power between white and falling with frequency, (n_samples,)."""
    index = np.arange(place, place + n_samples) % _PERIOD
    white, low = _noises()[:, index]
    return np.float32(np.sqrt(1 - tilt)) * white + np.float32(np.sqrt(tilt)) * low
