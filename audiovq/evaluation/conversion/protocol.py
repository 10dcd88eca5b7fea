"""Every converter on every pair, judged; seen and unseen targets apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.evaluation.conversion.cache import Judgements
from audiovq.evaluation.conversion.converters import Converter
from audiovq.evaluation.conversion.measures import MEASURES, Judge
from audiovq.evaluation.conversion.pairs import KINDS, ConversionPair, PairSet
from audiovq.evaluation.conversion.report import ConversionReport
from audiovq.evaluation.pair import SAMPLE_RATE
from audiovq.evaluation.progress import Progress, silent
from audiovq.evaluation.report import Scored, summarise


def evaluate_conversion(
    pairs: PairSet,
    converters: Sequence[Converter],
    groups: Sequence[str],
    about: dict[str, Any] | None = None,
    cache: Judgements | None = None,
    progress: Progress = silent,
) -> ConversionReport:
    """Convert all pairs in every way and score what comes out.

    Args:
        pairs: see `read_pairs`.
        converters: the ways, reference rows among them.
        groups: what to measure, see `chosen`.
        about: more for the report's protocol.
        cache: of judgements; the user's by default.
        progress: told how far it is.

    Raises:
        AudioVQError: for a converter whose output does not fit its source.
    """
    judge = Judge(pairs.voices, groups, cache or Judgements())
    progress("listening to the voices", 0, 1)
    judge.prepare()
    columns = {name: {"label": m.label, "higher_is_better": m.higher_is_better} for name, m in MEASURES.items()}
    n = {kind: sum(pair.kind == kind for pair in pairs.pairs) for kind in KINDS}
    report = ConversionReport({"name": "conversion", **(about or {}), "pairs": n, "metrics": columns}, [])
    matrices: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    results = []
    for converter in converters:
        scored: dict[str, list[Scored]] = defaultdict(list)
        for done, pair in enumerate(pairs.pairs):
            progress(converter.name, done, len(pairs.pairs))
            samples = _converted(converter, pair)
            scores = judge.score(pair, samples, converter.keeps_words)
            seconds = len(samples) / SAMPLE_RATE
            scored[pair.kind].append(Scored(pair.id, pair.target.speaker, pair.source.language, seconds, scores))
            if judge.similarities:
                matrices[converter.name][pair.target.speaker].append(judge.similarities)
        results += [_result(converter, kind, scored[kind]) for kind in KINDS if scored[kind]]
    report.systems = sorted(results, key=lambda result: KINDS.index(result.split or ""))
    report.matrices = {
        name: {
            speaker: {v: float(np.mean([one[v] for one in found])) for v in pairs.voices}
            for speaker, found in sorted(matrix.items())
        }
        for name, matrix in matrices.items()
    }
    return report


def _converted(converter: Converter, pair: ConversionPair) -> np.ndarray:
    samples = np.asarray(converter.convert(pair), np.float32)
    if not np.isfinite(samples).all():
        raise AudioVQError(f"{converter.name}: {pair.id}: what came out has NaN or infinite samples")
    wanted = round(pair.source.seconds * SAMPLE_RATE)
    if converter.keeps_words and abs(len(samples) - wanted) > 1:
        raise AudioVQError(f"{converter.name}: {pair.id}: {len(samples)} samples came out of {wanted}")
    return samples


def _result(converter: Converter, kind: str, scored: list[Scored]):
    return summarise(
        scored,
        name=converter.name,
        family=converter.family,
        call=converter.call,
        split=kind,
        kbps=None,
        file_kbps=None,
        delay_ms=0.0,
    )
