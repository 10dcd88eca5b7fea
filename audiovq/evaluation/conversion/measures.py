"""What is measured of a conversion, and how it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.evaluation.conversion.cache import Judgements, fingerprint
from audiovq.evaluation.conversion.melody import melody_correlation, register_distance
from audiovq.evaluation.conversion.pairs import ConversionPair, Voice
from audiovq.evaluation.conversion.voices import Ear, cosines, nearest
from audiovq.evaluation.metrics import make_metrics
from audiovq.evaluation.metrics.base import Metric
from audiovq.evaluation.metrics.whisper import LANGUAGES, VERSION
from audiovq.evaluation.pair import Pair
from audiovq.evaluation.report import Scores
from audiovq.evaluation.statistics import Score
from audiovq.speech.pitch import median_pitch, track_pitch


@dataclass(frozen=True)
class Measure:
    """One column: its title, which way is up (None: neither), and how many decimals say something."""

    label: str
    higher_is_better: bool | None
    decimals: int


MEASURES = {
    "target": Measure("to target", True, 3),
    "source": Measure("to source", False, 3),
    "closer": Measure("closer %", True, 0),
    "identified": Measure("top-1 %", True, 0),
    "wer": Measure("WER %", False, 1),
    "dwer": Measure("dWER %", False, 1),
    "melody": Measure("log-F0 r", True, 2),
    "register": Measure("register st", False, 1),
    "dnsmos": Measure("DNSMOS", True, 2),
}
GROUPS = {
    "speaker": ("target", "source", "closer", "identified"),
    "wer": ("wer",),
    "dwer": ("dwer",),
    "melody": ("melody",),
    "register": ("register",),
    "dnsmos": ("dnsmos",),
}
"""What ``--metrics`` may name, and the columns each gives."""


def chosen(names: Sequence[str] | None) -> list[str]:
    """The named groups, or all.

    Raises:
        AudioVQError: for a name that is none.
    """
    unknown = [name for name in names or [] if name not in GROUPS]
    if unknown:
        raise AudioVQError(f"no metric {unknown[0]!r} of conversion: there are {', '.join(GROUPS)}")
    return list(dict.fromkeys(names or GROUPS))


class Judge:
    """Scores conversions.

    Args:
        voices: among which the target is to be found, by name.
        groups: of `GROUPS`, which to measure.
        cache: what was judged before.

    Attributes:
        similarities: cosines of the last recording judged, by voice; empty unless the group "speaker" is measured.
    """

    def __init__(self, voices: Mapping[str, Voice], groups: Sequence[str], cache: Judgements) -> None:
        self._groups, self._cache, self._ear = set(groups), cache, Ear(cache)
        self._voices = voices
        self._centroids: dict[str, np.ndarray] = {}
        self._registers: dict[str, float | None] = {}
        self._metrics: dict[str, Metric] = {}
        self.similarities: dict[str, float] = {}

    def prepare(self) -> None:
        """Listen to the voices."""
        for name, voice in self._voices.items():
            judge = [stretch.load() for stretch in voice.judge]
            if "speaker" in self._groups and name not in self._centroids:
                self._centroids[name] = self._ear.centroid(judge)
            if "register" in self._groups and name not in self._registers:
                self._registers[name] = median_pitch(np.concatenate([self.pitch(samples) for samples in judge]))

    def pitch(self, samples: np.ndarray) -> np.ndarray:
        """The pitch track of a recording, see `track_pitch`."""
        key = fingerprint(samples)
        track = self._cache.get("pitch-2", key, lambda: [round(float(hz), 2) for hz in track_pitch(samples)])
        return np.array(track)

    def score(self, pair: ConversionPair, converted: np.ndarray, keeps_words: bool) -> Scores:
        """Every measure of one conversion; None where one does not apply.

        Args:
            pair: what was asked for.
            converted: (T,) at 16 kHz.
            keeps_words: whether words and melody are to be compared with the source's.
        """
        scores: Scores = {}
        if "speaker" in self._groups:
            scores |= self._voice(pair, converted)
        source = pair.source.load() if keeps_words else None
        for name in ("wer", "dwer"):
            if name in self._groups:
                scores[name] = None if source is None else self._words(name, pair, source, converted)
        if "melody" in self._groups:
            found = None if source is None else melody_correlation(self.pitch(source), self.pitch(converted))
            scores["melody"] = None if found is None else Score(found)
        if "register" in self._groups:
            found = register_distance(self.pitch(converted), self._registers[pair.target.speaker])
            scores["register"] = None if found is None else Score(found)
        if "dnsmos" in self._groups:
            scores["dnsmos"] = self._rate("dnsmos", Pair(pair.id, converted, converted))
        return scores

    def _voice(self, pair: ConversionPair, converted: np.ndarray) -> Scores:
        found = self.similarities = cosines(self._ear.embed(converted), self._centroids)
        target, source = found[pair.target.speaker], found[pair.source.speaker]
        return {
            "target": Score(target),
            "source": Score(source),
            "closer": Score(100.0 * (target > source)),
            "identified": Score(100.0 * (nearest(found) == pair.target.speaker)),
        }

    def _words(self, name: str, pair: ConversionPair, source: np.ndarray, converted: np.ndarray) -> Score | None:
        if pair.source.language not in LANGUAGES:
            return None
        n = min(len(source), len(converted))
        text = pair.source.text
        return self._rate(name, Pair(pair.id, source[:n], converted[:n], None, pair.source.language, text))

    def _rate(self, name: str, pair: Pair) -> Score | None:
        """What a metric of `audiovq.evaluation.metrics` says; it is loaded when it is first asked."""

        def make() -> list[float] | None:
            if name not in self._metrics:
                self._metrics[name] = make_metrics([name])[0]
            score = self._metrics[name].score(pair)
            return None if score is None else [score.value, score.weight]

        against = None if name == "dnsmos" else fingerprint(pair.reference, pair.text, pair.language)
        kind = f"{name}-{VERSION}" if name in ("wer", "dwer") else name
        found = self._cache.get(kind, fingerprint(pair.degraded, against), make)
        return None if found is None else Score(*found)
