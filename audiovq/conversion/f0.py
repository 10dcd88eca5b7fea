"""Fundamental frequency of speech, frame by frame, and its median."""

from __future__ import annotations

import numpy as np

HOP_SECONDS = 0.01
FLOOR, CEILING = 60.0, 500.0
"""Hz; voices are looked for between these."""
_CANDIDATES = 6
_VOICING = 0.45  # periodicity under which a frame is taken for unvoiced
_SILENCE = 0.03  # of the recording's loudest frame; quieter frames are hardly voiced
_OCTAVE_COST, _JUMP_COST, _TURN_COST = 0.01, 0.35, 0.14
_BLOCK = 2000  # frames at once
_ENOUGH = 8000  # Hz: a rate at which pitch is found as well as at any other
#: Fewer voiced frames than this (0.2 s) give no median.
_FEWEST = 20


def track_pitch(samples: np.ndarray, sample_rate: int = 16000) -> np.ndarray:
    """F0 of every 10 ms in Hz, 0 where there is no voice: (T,) -> (ceil(T / hop),).

    Peaks of the autocorrelation divided by the window's own, joined to a path that avoids jumps and turns between
    voiced and unvoiced (Boersma 1993).
    """
    samples = np.asarray(samples, np.float32)
    n_frames = -(-len(samples) // round(HOP_SECONDS * sample_rate))
    if n_frames == 0:
        return np.zeros(0, np.float32)
    if sample_rate % _ENOUGH == 0 and sample_rate > _ENOUGH:  # half the rate is half the work, and nothing is lost
        step = sample_rate // _ENOUGH
        smooth = np.convolve(samples, np.hanning(2 * step + 1)[1:-1].astype(np.float32) / step, "same")
        samples, sample_rate = smooth[::step], _ENOUGH
    hop, length = round(HOP_SECONDS * sample_rate), round(3 / FLOOR * sample_rate)
    padded = np.pad(samples, (length // 2, length))
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop][:n_frames]
    loudest = float(np.abs(samples).max())
    if loudest == 0:
        return np.zeros(n_frames, np.float32)
    found = [_candidates(frames[i : i + _BLOCK], sample_rate, loudest) for i in range(0, n_frames, _BLOCK)]
    pitches, strengths = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _best_path(pitches, strengths)


def _candidates(frames: np.ndarray, sample_rate: int, loudest: float) -> tuple[np.ndarray, np.ndarray]:
    """(N, length) -> pitches and strengths (N, candidates + 1); the first candidate is 0 Hz, unvoiced."""
    from scipy import fft

    length = frames.shape[1]
    lags = length // 2 + 2
    size = fft.next_fast_len(length + lags, real=True)  # so much that no lag wraps around
    window = np.hanning(length + 2)[1:-1].astype(np.float32)
    centred = frames - frames.mean(axis=1, keepdims=True)
    peak = np.abs(centred).max(axis=1)

    def autocorrelation(x: np.ndarray) -> np.ndarray:
        spectrum = fft.rfft(x, size)
        return fft.irfft(np.square(spectrum.real) + np.square(spectrum.imag), size)[..., :lags]

    own = autocorrelation(window)
    r = autocorrelation(centred * window)
    r = (r / np.maximum(r[:, :1], 1e-12)) / (own / own[0])
    first, last = int(sample_rate / CEILING), min(int(sample_rate / FLOOR), r.shape[1] - 2)
    left, middle, right = r[:, first - 1 : last], r[:, first : last + 1], r[:, first + 1 : last + 2]
    curve = left - 2 * middle + right
    top = (middle > left) & (middle >= right) & (middle > 0.3 * _VOICING)
    offset = np.where(top, 0.5 * (left - right) / np.where(curve < 0, curve, -1), 0)
    height = np.minimum(middle - 0.25 * (left - right) * offset, 1.0)
    pitch = sample_rate / (np.arange(first, last + 1) + offset)
    strength = np.where(top, height - _OCTAVE_COST * np.log2(FLOOR / pitch * (CEILING / FLOOR)), -np.inf)
    best = np.argsort(-strength, axis=1)[:, :_CANDIDATES]
    loudness = peak / loudest
    unvoiced = _VOICING + np.maximum(0, 2 - loudness / _SILENCE * (1 + _VOICING))
    pitches = np.concatenate([np.zeros((len(r), 1)), np.take_along_axis(pitch, best, 1)], axis=1)
    strengths = np.concatenate([unvoiced[:, None], np.take_along_axis(strength, best, 1)], axis=1)
    return pitches, strengths


def _best_path(pitches: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """The pitch of each frame (N,) on the path with the greatest strength less its costs (Viterbi)."""
    voiced = pitches > 0
    octaves = np.log2(np.where(voiced, pitches, 1.0))
    before, after = voiced[:-1, :, None], voiced[1:, None]
    jump = _JUMP_COST * np.abs(octaves[:-1, :, None] - octaves[1:, None])
    costs = np.where(before & after, jump, np.where(before ^ after, _TURN_COST, 0.0))  # (N - 1, from, to)
    score = strengths[0]
    columns = np.arange(len(score))
    back = np.zeros(pitches.shape, np.int64)
    for i, (cost, strength) in enumerate(zip(costs, strengths[1:], strict=True), 1):
        total = score[:, None] - cost
        back[i] = best = total.argmax(axis=0)
        score = total[best, columns] + strength
    path = np.zeros(len(pitches), np.int64)
    path[-1] = int(score.argmax())
    for i in range(len(pitches) - 1, 0, -1):
        path[i - 1] = back[i, path[i]]
    return pitches[np.arange(len(path)), path].astype(np.float32)


def median_pitch(pitch: np.ndarray) -> float | None:
    """Median F0 of the voiced frames in Hz, None where fewer than 0.2 s are voiced."""
    voiced = pitch[pitch > 0]
    return float(np.median(voiced)) if len(voiced) >= _FEWEST else None
