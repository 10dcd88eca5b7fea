"""The metrics by name, one file each."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from audiovq.errors import AudioVQError
from audiovq.evaluation.metrics.base import Metric

METRICS = {
    "pesq": "pesq.PESQ",
    "stoi": "stoi.STOI",
    "mel": "mel.MelDistance",
    "dnsmos": "dnsmos.DNSMOS",
    "speaker": "speaker.SpeakerCosine",
    "wer": "wer.WordErrorRate",
    "dwer": "wer.DifferentialWordErrorRate",
}


def make_metrics(names: Sequence[str] | None = None) -> list[Metric]:
    """The named metrics, or all.

    Raises:
        AudioVQError: for a name that is none, or a package that is not installed.
    """
    unknown = [name for name in names or [] if name not in METRICS]
    if unknown:
        raise AudioVQError(f"no metric {unknown[0]!r}: there are {', '.join(METRICS)}")
    return [_find(name)() for name in dict.fromkeys(names or METRICS)]


def _find(name: str) -> type[Metric]:
    module, _, attribute = METRICS[name].partition(".")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def metric_class(name: str) -> type[Metric]:
    """The class of a metric, for its label and direction; nothing is loaded for it."""
    return _find(name)


def describe(metrics: Sequence[Metric]) -> dict[str, dict[str, object]]:
    """What a report says of its metrics."""
    return {metric.name: {"label": metric.label, "higher_is_better": metric.higher_is_better} for metric in metrics}


__all__ = ["METRICS", "Metric", "describe", "make_metrics", "metric_class"]
