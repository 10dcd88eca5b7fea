"""Codecs on a corpus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from audiovq.errors import AudioVQError
from audiovq.evaluation.metrics import describe
from audiovq.evaluation.protocol import (
    EXCERPT_SECONDS,
    SAMPLE_RATE,
    SHORTEST_SECONDS,
    Excerpt,
    Metric,
    Pair,
    Progress,
    System,
    common_delay,
    join_utterances,
    remove_delay,
    sample_excerpts,
    silent,
    tracked,
)
from audiovq.evaluation.report import (
    Scored,
    SystemReport,
    SystemResult,
    reference_result,
    score_pair,
    score_reference,
    summarise,
)

if TYPE_CHECKING:
    from audiovq.data.utterance import Utterance

SEED = 0
SYNTHETIC_CORPORA = ("kokoro_speech",)
"""Corpora of synthesised speech, by the first part of their speakers' names."""


def evaluate_codec(
    splits: Mapping[str, Sequence[Utterance]],
    systems: Sequence[System],
    metrics: Sequence[Metric],
    limit: int = 0,
    about: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> SystemReport:
    """Code excerpts of every split with every system and score the result.

    Splits are reported apart, and within each recordings apart from synthesised speech. The first result of each is the
    reference itself, if there are metrics that need no other; systems also get their difference to it.

    Args:
        splits: utterances by the split's name.
        systems: codecs.
        metrics: from `make_metrics`.
        limit: excerpts of each split (see `sample_excerpts`); 0 for all.
        about: more for the report's protocol: data, model.
        progress: called with the progress.

    Raises:
        AudioVQError: for a split with no utterances.
    """
    protocol = {
        "name": "codec",
        **(about or {}),
        "sample_rate": SAMPLE_RATE,
        "excerpts": f"a speaker's consecutive utterances joined until they last {EXCERPT_SECONDS:g} s "
        f"(a rest {SHORTEST_SECONDS:g} s)",
        "limit": limit,
        "seed": SEED,
        "kbps": "bytes of coded speech; file_kbps: bytes of the whole file",
        "metrics": describe(metrics),
    }
    report = SystemReport(protocol, [])
    for split, utterances in splits.items():
        parts = {name: sample_excerpts(join_utterances(part), limit, SEED) for name, part in _apart(split, utterances)}
        if not any(parts.values()):
            raise AudioVQError(f"the split {split!r} of this data has no utterances")
        for name, excerpts in parts.items():
            if excerpts:
                report.systems += _evaluate(name, excerpts, systems, metrics, progress)
    return report


def _apart(split: str, utterances: Sequence[Utterance]) -> list[tuple[str, list[Utterance]]]:
    """Recordings, then synthesised speech, each with a name for the report."""
    found: dict[bool, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        found[utterance.speaker.partition("/")[0] in SYNTHETIC_CORPORA].append(utterance)
    return [(split, found[False]), (f"{split}, synthetic", found[True])]


def _evaluate(
    split: str, excerpts: Sequence[Excerpt], systems: Sequence[System], metrics: Sequence[Metric], progress: Progress
) -> list[SystemResult]:
    """The recordings themselves, then every system."""
    pairs = []
    for one in excerpts:
        samples = one.load()
        pairs.append(Pair(one.id, samples, samples, one.speaker, one.language, one.text))
    reference = score_reference(tracked(pairs, f"{split}: reference", progress), metrics)
    results = [reference_result(reference, split)] if reference else []
    return results + [_evaluate_system(system, split, pairs, reference, metrics, progress) for system in systems]


def _evaluate_system(
    system: System,
    split: str,
    references: Sequence[Pair],
    scored_references: Sequence[Scored],
    metrics: Sequence[Metric],
    progress: Progress,
) -> SystemResult:
    what = f"{split}: {system.name}"
    coded = [system.code(pair.reference) for pair in tracked(references, f"{what}, coding", progress)]
    waveforms = [one.waveform for one in coded]
    delay = 0 if system.exact else common_delay([pair.reference for pair in references], waveforms)
    pairs = [
        replace(pair, degraded=remove_delay(waveform, delay, len(pair.reference)))
        for pair, waveform in zip(references, waveforms, strict=True)
    ]
    seconds = sum(pair.seconds for pair in pairs)
    return summarise(
        [score_pair(pair, metrics) for pair in tracked(pairs, f"{what}, scoring", progress)],
        scored_references,
        name=system.name,
        family=system.family,
        call=system.call,
        split=split,
        n_codebooks=system.n_codebooks,
        kbps=sum(one.payload_bytes for one in coded) * 8 / 1000 / seconds,
        file_kbps=sum(one.file_bytes for one in coded) * 8 / 1000 / seconds,
        delay_ms=1000 * delay / SAMPLE_RATE,
    )
