"""From the decoder's gains to samples: both sources are shaped in the spectrum and overlap-added (NumPy alone).

`audiovq.codec.decoder` has the same for training, in PyTorch and in batches.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from audiovq.codec.oscillator import noise_table
from audiovq.interfaces import CodecShape

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
        """Samples of frames ``first`` to ``last``.

        Args:
            gains: (N, 4 * bins) of the sources: log-gain, real and imaginary parts; log-gain of the noise.
            direct: (N, 3 * bins) log-gain, real and imaginary parts of the part without a source, or None.
            frames: the N short frames, see `CodecShape.short_frames`.
            first, last: frames that are wanted.
            source: (margin + (last - first) * hop_length + margin,) harmonic source around the wanted samples; zeros
                before the recording and behind it.

        Returns:
            ((last - first) * hop_length,) float32.
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
