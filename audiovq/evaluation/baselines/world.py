"""Voice conversion by statistics of the vocoder WORLD: the target's pitch statistics and mean envelope."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.evaluation.metrics.f0 import CEILING, FLOOR
from audiovq.evaluation.protocol import SAMPLE_RATE
from audiovq.optional import with_pkg_resources

if TYPE_CHECKING:
    from audiovq.evaluation.protocols.pairs import ConversionPair


class WorldConverter:
    """Log F0 gets the target's mean and deviation; the log envelope moves by the difference of the speakers' means.

    Raises:
        AudioVQError: when the package pyworld is not installed.
    """

    name, family, keeps_words = "WORLD statistics", "baseline", True
    call = "pyworld: log F0 to the target's mean and deviation, the envelope moved by the difference of the means"

    def __init__(self) -> None:
        try:
            with with_pkg_resources():
                self._world: Any = import_module("pyworld")
        except ImportError as error:
            # Not in the extra `eval`: it is compiled on installing.
            raise AudioVQError("the WORLD baseline needs the package pyworld: pip install 'audiovq[world]'") from error
        self._known: dict[str, tuple[float, float, np.ndarray]] = {}

    def _analyse(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """F0 in Hz, envelope and times of each frame."""
        x = samples.astype(np.float64)
        pitch, times = self._world.dio(x, SAMPLE_RATE, f0_floor=FLOOR, f0_ceil=CEILING)
        pitch = self._world.stonemask(x, pitch, times, SAMPLE_RATE)
        return pitch, self._world.cheaptrick(x, pitch, times, SAMPLE_RATE), times

    def _statistics(self, pitch: np.ndarray, envelope: np.ndarray) -> tuple[float, float, np.ndarray]:
        """Mean and deviation of log F0, and the mean log envelope, over the voiced frames."""
        voiced = pitch > 0
        logs = np.log(pitch[voiced]) if voiced.any() else np.log([150.0])
        mean_envelope = np.log(envelope[voiced] if voiced.any() else envelope).mean(axis=0)
        return float(logs.mean()), float(max(logs.std(), 1e-3)), mean_envelope

    def convert(self, pair: ConversionPair) -> np.ndarray:
        """(T,) float32, as long as the source."""
        speaker = pair.target.speaker
        if speaker not in self._known:
            self._known[speaker] = self._statistics(*self._analyse(pair.target.reference.load())[:2])
        source = pair.source.load()
        pitch, envelope, times = self._analyse(source)
        noise = self._world.d4c(source.astype(np.float64), pitch, times, SAMPLE_RATE)
        (mean, deviation, mean_envelope), target = self._statistics(pitch, envelope), self._known[speaker]
        voiced = pitch > 0
        moved = np.zeros_like(pitch)
        moved[voiced] = np.exp((np.log(pitch[voiced]) - mean) / deviation * target[1] + target[0])
        other = np.exp(np.log(envelope) + (target[2] - mean_envelope)[None])
        out = self._world.synthesize(np.clip(moved, 0, 2 * CEILING), other, noise, SAMPLE_RATE)
        # The level of the target's recordings is no property of the speaker.
        out *= np.sqrt(np.mean(source.astype(np.float64) ** 2) / max(np.mean(out**2), 1e-12))
        return np.pad(out, (0, max(0, len(source) - len(out))))[: len(source)].astype(np.float32)
