"""Voice conversion: on fixed pairs against the target's other recordings, or on groups against the true result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.evaluation import plots
from audiovq.evaluation.metrics import (
    METRICS,
    OPTIONAL,
    describe,
    f0_correlation,
    make_metrics,
    median_distance,
    median_f0,
    track_f0,
)
from audiovq.evaluation.pairs import KINDS, ConversionPair, Converter, PairSet, Target, truth
from audiovq.evaluation.pretrained import VERSION, SpeakerCosine
from audiovq.evaluation.protocol import (
    SAMPLE_RATE,
    Metric,
    Pair,
    Progress,
    Score,
    ScoreCache,
    fingerprint,
    silent,
    tracked,
)
from audiovq.evaluation.report import (
    Scored,
    Scores,
    SystemReport,
    SystemResult,
    reference_result,
    score_pair,
    score_reference,
    summarise,
)
from audiovq.io import cache_dir

Matrices = dict[str, dict[str, dict[str, float]]]
"""Mean cosines by system, then by target, then by the speaker compared with."""


@dataclass(frozen=True)
class Measure:
    """A column: its title, its direction (None: neither), and its decimals."""

    label: str
    higher_is_better: bool | None
    decimals: int


MEASURES: dict[str, Measure | type[Metric]] = {
    "target": Measure("to target", True, 3),
    "source": Measure("to source", False, 3),
    "closer": Measure("closer %", True, 0),
    "identified": Measure("top-1 %", True, 0),
    "wer": METRICS["wer"],
    "dwer": METRICS["dwer"],
    "phones": METRICS["phones"],
    "f0_correlation": Measure("log-F0 r", True, 2),
    "median_f0": Measure("median F0 st", False, 1),
    "dnsmos": METRICS["dnsmos"],
    "distillmos": METRICS["distillmos"],
}
CHOICES = {"speaker": ("target", "source", "closer", "identified")} | {name: (name,) for name in list(MEASURES)[4:]}
"""The names of ``--metrics`` and the columns of each."""
GROUP_METRICS = ("mel", "f0", "voicing", "speaker", "wer", "phones", "dnsmos", "distillmos")
"""Metrics against the true result."""
WORD_METRICS = ("wer", "dwer", "phones")


def chosen_metrics(names: Sequence[str] | None) -> list[str]:
    """The named choices; None: all whose packages are installed.

    Raises:
        AudioVQError: for an unknown name.
    """
    unknown = [name for name in names or [] if name not in CHOICES]
    if unknown:
        raise AudioVQError(f"no metric {unknown[0]!r} of conversion: there are {', '.join(CHOICES)}")
    if names is not None:
        return list(dict.fromkeys(names))
    absent = set(OPTIONAL) - {metric.name for metric in make_metrics(None, OPTIONAL)}
    return [name for name in CHOICES if name not in absent]


class Judge:
    """Scores conversions by ``choices`` of `CHOICES` against recordings of the target and of the source.

    The target is to be identified among ``speakers``. ``similarities`` are the cosines of the last recording to every
    speaker's centroid; empty without the choice "speaker".
    """

    def __init__(self, speakers: Mapping[str, Target], choices: Sequence[str], cache: ScoreCache) -> None:
        self._choices, self._cache, self._speakers = set(choices), cache, speakers
        self._centroids: dict[str, np.ndarray] = {}
        self._medians: dict[str, float | None] = {}
        self._metrics: dict[str, Metric] = {}
        self._cosine: SpeakerCosine | None = None
        self.similarities: dict[str, float] = {}

    def prepare(self) -> None:
        """Compute the centroid and the median F0 of every speaker."""
        for name, target in self._speakers.items():
            judge = [excerpt.load() for excerpt in target.judge]
            if "speaker" in self._choices:
                vectors = [vector for samples in judge if (vector := self.embed(samples)) is not None]
                if not vectors:
                    raise AudioVQError(f"{name}: there is no speech in the recordings that judge this speaker")
                self._centroids[name] = unit(np.mean(vectors, axis=0))
            if "median_f0" in self._choices:
                self._medians[name] = median_f0(np.concatenate([self.f0(samples) for samples in judge]))

    def embed(self, samples: np.ndarray) -> np.ndarray | None:
        """(T,) at 16 kHz -> unit vector (256,); None without speech."""

        def make() -> list[float] | None:
            self._cosine = self._cosine or SpeakerCosine()
            vector = self._cosine.embed(samples)
            return None if vector is None else [round(float(value), 6) for value in vector]

        vector = self._cache.get("embedding", fingerprint(samples), make)
        return None if vector is None else np.array(vector)

    def f0(self, samples: np.ndarray) -> np.ndarray:
        """See `track_f0`."""
        track = self._cache.get("f0", fingerprint(samples), lambda: [round(float(hz), 2) for hz in track_f0(samples)])
        return np.array(track)

    def score(self, pair: ConversionPair, converted: np.ndarray, keeps_words: bool) -> Scores:
        """Every measure of one conversion (T,) at 16 kHz; None where one does not apply.

        ``keeps_words``: words and F0 are compared with the source's.
        """
        scores: Scores = self._similarity(pair, converted) if "speaker" in self._choices else {}
        source = pair.source.load() if keeps_words else None
        for name in (name for name in WORD_METRICS if name in self._choices):
            scores[name] = None if source is None else self._words(name, pair, source, converted)
        if "f0_correlation" in self._choices:
            value = None if source is None else f0_correlation(self.f0(source), self.f0(converted))
            scores["f0_correlation"] = None if value is None else Score(value)
        if "median_f0" in self._choices:
            value = median_distance(self.f0(converted), self._medians[pair.target.speaker])
            scores["median_f0"] = None if value is None else Score(value)
        for name in (name for name in ("dnsmos", "distillmos") if name in self._choices):
            scores[name] = self._rate(name, Pair(pair.id, converted, converted))
        return scores

    def _similarity(self, pair: ConversionPair, converted: np.ndarray) -> Scores:
        found = self.similarities = cosines(self.embed(converted), self._centroids)
        target, source = found[pair.target.speaker], found[pair.source.speaker]
        values = (target, source, 100.0 * (target > source), 100.0 * (nearest(found) == pair.target.speaker))
        return dict(zip(CHOICES["speaker"], map(Score, values), strict=True))

    def _words(self, name: str, pair: ConversionPair, source: np.ndarray, converted: np.ndarray) -> Score | None:
        n = min(len(source), len(converted))
        return self._rate(name, Pair(pair.id, source[:n], converted[:n], None, pair.source.language, pair.source.text))

    def _rate(self, name: str, pair: Pair) -> Score | None:
        """The score of a metric, which is loaded when it is first needed."""

        def make() -> list[float] | None:
            if name not in self._metrics:
                self._metrics[name] = make_metrics([name])[0]
            score = self._metrics[name].score(pair)
            return None if score is None else [score.value, score.weight]

        compared = name in WORD_METRICS
        against = fingerprint(pair.reference, pair.text, pair.language) if compared else None
        kind = f"{name}-{VERSION}" if name in ("wer", "dwer") else name
        value = self._cache.get(kind, fingerprint(pair.degraded, against), make)
        return None if value is None else Score(*value)


def unit(vector: np.ndarray) -> np.ndarray:
    """Scaled to length 1."""
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def cosines(vector: np.ndarray | None, centroids: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Cosine of one recording to every speaker; 0 for a recording without speech."""
    if vector is None:
        return dict.fromkeys(centroids, 0.0)
    return {name: float(vector @ centroid) for name, centroid in centroids.items()}


def nearest(similarities: Mapping[str, float]) -> str:
    """The speaker with the highest cosine."""
    return max(similarities, key=lambda name: similarities[name])


@dataclass
class ConversionReport(SystemReport):
    """Every converter on seen and on unseen targets, with the matrix of who sounds like whom."""

    matrices: Matrices = field(default_factory=dict)

    @staticmethod
    def columns() -> Mapping[str, Any]:
        return MEASURES

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "similarity": self.matrices}

    def draw(self, path: str | Path) -> None:
        plots.draw_matrices(self.matrices, path)


def evaluate_conversion(
    pairs: PairSet,
    converters: Sequence[Converter],
    choices: Sequence[str],
    about: dict[str, Any] | None = None,
    cache: ScoreCache | None = None,
    progress: Progress = silent,
) -> ConversionReport:
    """Convert all pairs with every converter and score the results; seen and unseen targets apart.

    Args:
        pairs: see `read_pairs`.
        converters: converters and reference rows.
        choices: measures, see `chosen_metrics`.
        cache: ``<cache>/evaluation/conversion`` by default.

    Raises:
        AudioVQError: for a converter whose output does not fit its source.
    """
    judge = Judge(pairs.speakers, choices, cache or ScoreCache(cache_dir() / "evaluation" / "conversion"))
    progress("preparing the speakers", 0, 1)
    judge.prepare()
    columns = {name: {"label": m.label, "higher_is_better": m.higher_is_better} for name, m in MEASURES.items()}
    report = ConversionReport(_protocol("conversion", pairs, about, columns), [])
    for converter in converters:
        scored: dict[str, list[Scored]] = defaultdict(list)
        similar: dict[str, list[dict[str, float]]] = defaultdict(list)
        for pair in tracked(pairs.pairs, converter.name, progress):
            samples = _converted(converter, pair)
            scores = judge.score(pair, samples, converter.keeps_words)
            about_pair = (pair.id, pair.target.speaker, pair.source.language, len(samples) / SAMPLE_RATE)
            scored[pair.kind].append(Scored(*about_pair, scores))
            if judge.similarities:
                similar[pair.target.speaker].append(judge.similarities)
        report.systems += [_result(converter, kind, scored[kind]) for kind in KINDS if scored[kind]]
        if similar:
            report.matrices[converter.name] = {
                speaker: {name: float(np.mean([one[name] for one in rows])) for name in pairs.speakers}
                for speaker, rows in sorted(similar.items())
            }
    report.systems.sort(key=lambda result: KINDS.index(result.split or ""))
    return report


def evaluate_groups(
    pairs: PairSet,
    converters: Sequence[Converter],
    metrics: Sequence[Metric],
    about: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> SystemReport:
    """Convert all pairs with every converter and compare the results with the true ones; seen and unseen targets apart.

    Pairs are those of `group_pairs`; converters and reference rows keep the words.

    Raises:
        AudioVQError: for a converter whose output does not fit its source.
    """
    report = SystemReport(_protocol("conversion of groups", pairs, about, describe(metrics)), [])
    for kind in KINDS:
        taken = [pair for pair in pairs.pairs if pair.kind == kind]
        true = [truth(pair) for pair in taken]
        reference = score_reference(tracked(true, f"{kind}: true results", progress), metrics)
        report.systems += [reference_result(reference, kind)] if reference else []
        for converter in converters if taken else ():
            scored = [
                score_pair(truth(pair, _converted(converter, pair)), metrics)
                for pair in tracked(taken, f"{kind}: {converter.name}", progress)
            ]
            report.systems.append(_result(converter, kind, scored, reference))
    return report


def _protocol(name: str, pairs: PairSet, about: dict[str, Any] | None, columns: Mapping[str, Any]) -> dict[str, Any]:
    n = {kind: sum(pair.kind == kind for pair in pairs.pairs) for kind in KINDS}
    return {"name": name, **(about or {}), "pairs": n, "metrics": columns}


def _converted(converter: Converter, pair: ConversionPair) -> np.ndarray:
    samples = np.asarray(converter.convert(pair), np.float32)
    if not np.isfinite(samples).all():
        raise AudioVQError(f"{converter.name}: {pair.id}: the output has NaN or infinite samples")
    expected = round(pair.source.seconds * SAMPLE_RATE)
    if converter.keeps_words and abs(len(samples) - expected) > 1:
        raise AudioVQError(f"{converter.name}: {pair.id}: {len(samples)} samples came out of {expected}")
    return samples


def _result(converter: Converter, kind: str, scored: list[Scored], reference: Sequence[Scored] = ()) -> SystemResult:
    about = {name: getattr(converter, name) for name in ("name", "family", "call")}
    return summarise(scored, reference, **about, split=kind)
