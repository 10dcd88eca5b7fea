"""Speech moved to another register, its formants and its melody kept: pitch-synchronous overlap-add, block by block."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np

from audiovq.conversion.f0 import FLOOR, HOP_SECONDS, median_pitch, track_pitch

BLOCK_SECONDS = 4.0
"""Blocks lie on a fixed grid, so that what comes out does not depend on how the audio arrives."""
MARGIN_SECONDS = 0.15
"""Neighbouring blocks share so much on either side of their border, where they are cross-faded."""
FADE_SECONDS = 0.02
OPENING_SECONDS = 10.0
"""How much of a recording tells its register."""
SMALLEST = 0.25
"""Semitones; smaller shifts are not made."""
_UNVOICED_SECONDS = 0.005


def shift_pitch(samples: np.ndarray, semitones: float, sample_rate: int = 16000) -> np.ndarray:
    """(T,) -> (T,) with its pitch moved, its timing and formants kept (TD-PSOLA, Moulines and Charpentier 1990).

    Grains of two periods, cut out around marks that follow the waveform's periods, are laid down at the new distance.
    Where there is no voice the grains stay where they are, which gives the samples back unchanged.
    """
    samples = np.asarray(samples, np.float32)
    if len(samples) < 2 or not np.any(samples):
        return samples.copy()
    pitch = track_pitch(samples, sample_rate)
    marks, periods, voiced = _marks(samples, pitch, sample_rate)
    places, sources = _places(marks, periods, voiced, 2.0 ** (semitones / 12))
    longest = int(sample_rate / FLOOR) + 2
    padded = np.pad(samples, longest)
    out = np.zeros(len(padded), np.float32)
    left = np.minimum(np.diff(marks, prepend=2 * marks[0] - marks[1]), longest)
    right = np.minimum(np.diff(marks, append=2 * marks[-1] - marks[-2]), longest)
    # Python's own numbers: numpy's take longer to be looked up than the grains to be added.
    middles, befores, afters = marks.tolist(), left.tolist(), right.tolist()
    for place, i in zip(places, sources, strict=True):
        before, after = befores[i], afters[i]
        middle = middles[i] + longest
        grain = padded[middle - before : middle + after] * _window(before, after)
        start = place - before + longest
        first, last = max(-start, 0), min(len(grain), len(out) - start)
        out[start + first : start + last] += grain[first:last]
    return out[longest : longest + len(samples)]


@cache
def _rise(n: int) -> np.ndarray:
    """The rising half of a Hann window (n,)."""
    return (0.5 - 0.5 * np.cos(np.pi * (np.arange(n) + 0.5) / max(n, 1))).astype(np.float32)


@cache
def _window(before: int, after: int) -> np.ndarray:
    """Rises over ``before`` samples and falls over ``after``."""
    return np.concatenate([_rise(before), _rise(after)[::-1]])


@cache
def _due(n: int) -> np.ndarray:
    """What a peak is worth by its place: most where it is due, half at the edges (n,)."""
    return (1 - 0.5 * np.abs(np.linspace(-1, 1, n))).astype(np.float32)


def _marks(samples: np.ndarray, pitch: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of marks, the period at each in samples, and whether it is voiced: (M,) each, M at least 2.

    In voiced speech a mark is put where a period after the last one the waveform is most like it was there.
    """
    hop = round(HOP_SECONDS * sample_rate)
    step = round(_UNVOICED_SECONDS * sample_rate)
    sign = 1.0 if samples.max() > -samples.min() else -1.0
    marks, periods, voiced = [0], [float(step)], [False]
    while marks[-1] < len(samples) - 1:
        last = marks[-1]
        hz = float(pitch[min(last // hop, len(pitch) - 1)])
        if hz <= 0:
            marks.append(last + step)
            periods.append(float(step))
            voiced.append(False)
            continue
        period = sample_rate / hz
        if voiced[-1]:
            low, high = last + round(0.8 * period), last + round(1.2 * period) + 1
        else:  # the strongest peak of the first period
            low, high = last + 1, last + 1 + round(period)
        near = samples[low:high]
        if len(near) < high - low:
            break
        height = sign * near
        if voiced[-1]:  # a peak close to where it is due is worth more than a higher one at the edge
            height = (height - height.min()) * _due(len(near))
        marks.append(low + int(height.argmax()))
        periods.append(period)
        voiced.append(True)
    if len(marks) < 2:
        marks.append(marks[-1] + step)
        periods.append(float(step))
        voiced.append(False)
    return np.array(marks), np.array(periods), np.array(voiced)


def _places(marks: np.ndarray, periods: np.ndarray, voiced: np.ndarray, ratio: float) -> tuple[list[int], list[int]]:
    """Where grains are laid down, and which mark's grain each is; each voiced run keeps its place and length."""
    places: list[int] = []
    sources: list[int] = []
    borders = [0, *(np.flatnonzero(np.diff(voiced)) + 1).tolist(), len(marks)]
    middles, rest = marks.tolist(), periods.tolist()
    for first, end in itertools.pairwise(borders):
        if not voiced[first]:
            places += middles[first:end]
            sources += range(first, end)
            continue
        time, i, last = float(middles[first]), first, end - 1
        while time <= middles[last]:
            while i < last and middles[i + 1] - time <= abs(middles[i] - time):
                i += 1
            places.append(round(time))
            sources.append(i)
            gap = middles[i + 1] - middles[i] if i < last else rest[i]
            time += gap / ratio
    return places, sources


class Shifter:
    """A stream of blocks moved in pitch: by a number of semitones, or to a register.

    Args:
        sample_rate: of the blocks, Hz.
        semitones: how far; None: from the median F0 of the opening to ``target_hz``.
        target_hz: the register wanted.

    Attributes:
        semitones: what is done; None while the opening has not been heard.
    """

    def __init__(self, sample_rate: int, semitones: float | None, target_hz: float | None = None) -> None:
        self.sample_rate, self.semitones, self._target = sample_rate, semitones, target_hz
        self._block, self._margin = round(BLOCK_SECONDS * sample_rate), round(MARGIN_SECONDS * sample_rate)
        self._waiting = np.zeros((0, 1), np.float32)
        self._parts: list[np.ndarray] = []
        self._n_new = 0
        self._begun = False
        self._tail: np.ndarray | None = None

    def push(self, samples: np.ndarray) -> np.ndarray:
        """(n, channels) -> what is ready, (m, channels)."""
        self._parts.append(samples)
        self._n_new += len(samples)
        need = self._block + 2 * self._margin if self.semitones is not None else self._opening
        if len(self._waiting) + self._n_new < need:
            return samples[:0]
        self._gather()
        self._decide()
        return self._drain(False)

    def finish(self) -> np.ndarray:
        """The rest: as many samples have come out then as went in."""
        self._gather()
        self._decide()
        return self._drain(True)

    @property
    def _opening(self) -> int:
        return max(round(OPENING_SECONDS * self.sample_rate), self._block + 2 * self._margin)

    def _gather(self) -> None:
        self._waiting = np.concatenate([*([self._waiting] if len(self._waiting) else []), *self._parts])
        self._parts, self._n_new = [], 0

    def _decide(self) -> None:
        if self.semitones is not None:
            return
        # The opening alone, however much is there: the result must not depend on how the audio arrives.
        opening = self._waiting[: round(OPENING_SECONDS * self.sample_rate)].mean(axis=1)
        own = median_pitch(track_pitch(opening, self.sample_rate))
        known = own is not None and self._target is not None
        self.semitones = float(12 * np.log2(self._target / own)) if known else 0.0  # type: ignore[operator]

    def _drain(self, ended: bool) -> np.ndarray:
        """Blocks with their margins while there are whole ones; at the end what is left as one."""
        out = [self._waiting[:0]]
        while len(self._waiting):
            before = self._margin if self._begun else 0
            whole = before + self._block + self._margin
            last = ended and len(self._waiting) <= whole
            if len(self._waiting) < whole and not last:
                break
            moved = self._move(self._waiting if last else self._waiting[:whole])
            out.append(self._join(moved, before, last))
            self._waiting = self._waiting[len(self._waiting) if last else before + self._block - self._margin :]
            self._begun = True
        return np.concatenate(out)

    def _move(self, block: np.ndarray) -> np.ndarray:
        assert self.semitones is not None
        if abs(self.semitones) < SMALLEST:
            return block
        return np.stack([shift_pitch(row, self.semitones, self.sample_rate) for row in block.T], axis=1)

    def _join(self, moved: np.ndarray, before: int, last: bool) -> np.ndarray:
        """A block without its margins, faded in over the end of the one before; its own end waits for the next."""
        fade = round(FADE_SECONDS * self.sample_rate)
        piece = moved[before:].copy() if last else moved[before : len(moved) - self._margin + fade].copy()
        if self._tail is not None:
            n = min(fade, len(piece), len(self._tail))
            rise = np.linspace(0, 1, n, endpoint=False, dtype=np.float32)[:, None]
            piece[:n] = rise * piece[:n] + (1 - rise) * self._tail[:n]
        if last:
            return piece
        self._tail = piece[len(piece) - fade :]
        return piece[: len(piece) - fade]
