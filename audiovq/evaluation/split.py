"""Systems on the stretches of a corpus's split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from audiovq.errors import AudioVQError
from audiovq.evaluation.align import common_delay, shift
from audiovq.evaluation.metrics import Metric, describe
from audiovq.evaluation.pair import SAMPLE_RATE, Pair
from audiovq.evaluation.progress import Progress, silent
from audiovq.evaluation.report import Report, SystemResult, judge_reference, score_pair, summarise
from audiovq.evaluation.stretches import SECONDS, SHORTEST, Stretch, choose, join
from audiovq.evaluation.system import System

if TYPE_CHECKING:
    from audiovq.data.utterance import Utterance

SEED = 0


def evaluate_split(
    splits: Mapping[str, Sequence[Utterance]],
    systems: Sequence[System],
    metrics: Sequence[Metric],
    limit: int = 0,
    about: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> Report:
    """Code every split's stretches with every system and score what comes back.

    The first result of each split is the reference itself, by the metrics that can judge it alone, if there are any.

    Args:
        splits: utterances by the split's name. Splits are never mixed: each has results of its own.
        systems: codecs, ours and others.
        metrics: from `make_metrics`.
        limit: stretches of each split (see `choose`); 0 for all.
        about: more for the report's protocol: data, model.
        progress: told how far it is.

    Raises:
        AudioVQError: for a split with no utterances.
    """
    report = Report({"name": "split", **(about or {}), **_protocol(limit, metrics)}, [])
    for split, utterances in splits.items():
        stretches = choose(join(utterances), limit, SEED)
        if not stretches:
            raise AudioVQError(f"the split {split!r} of this data has no utterances")
        references = _references(stretches)
        if any(metric.judges_alone for metric in metrics):
            pairs = _told(references, f"{split}: reference", progress)
            report.systems.append(judge_reference(pairs, metrics, split))
        report.systems += [_evaluate_system(system, split, references, metrics, progress) for system in systems]
    return report


def _protocol(limit: int, metrics: Sequence[Metric]) -> dict[str, Any]:
    return {
        "sample_rate": SAMPLE_RATE,
        "stretches": f"a speaker's consecutive utterances joined until they last {SECONDS:g} s (a rest {SHORTEST:g} s)",
        "limit": limit,
        "seed": SEED,
        "kbps": "bytes of coded speech; file_kbps: bytes of the whole file",
        "metrics": describe(metrics),
    }


def _references(stretches: Sequence[Stretch]) -> list[Pair]:
    pairs = []
    for one in stretches:
        samples = one.load()
        pairs.append(Pair(one.id, samples, samples, one.speaker, one.language, one.text))
    return pairs


def _told(pairs: Sequence[Pair], what: str, progress: Progress) -> Iterator[Pair]:
    for done, pair in enumerate(pairs):
        progress(what, done, len(pairs))
        yield pair


def _evaluate_system(
    system: System, split: str, references: Sequence[Pair], metrics: Sequence[Metric], progress: Progress
) -> SystemResult:
    coded = [system.code(pair.reference) for pair in _told(references, f"{split}: {system.name}, coding", progress)]
    waveforms = [one.waveform for one in coded]
    delay = 0 if system.exact else common_delay([pair.reference for pair in references], waveforms)
    pairs = [
        replace(pair, degraded=shift(waveform, delay, len(pair.reference)))
        for pair, waveform in zip(references, waveforms, strict=True)
    ]
    scored = [score_pair(pair, metrics) for pair in _told(pairs, f"{split}: {system.name}, scoring", progress)]
    seconds = sum(pair.seconds for pair in pairs)
    return summarise(
        scored,
        name=system.name,
        family=system.family,
        call=system.call,
        split=split,
        kbps=sum(one.payload_bytes for one in coded) * 8 / 1000 / seconds,
        file_kbps=sum(one.file_bytes for one in coded) * 8 / 1000 / seconds,
        delay_ms=1000 * delay / SAMPLE_RATE,
    )
