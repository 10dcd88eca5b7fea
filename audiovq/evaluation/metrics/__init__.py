"""The metrics by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module

from audiovq.errors import AudioVQError
from audiovq.evaluation.protocol import Metric

METRICS = {
    "pesq": "signal.PESQ",
    "stoi": "signal.STOI",
    "speaker": "models.SpeakerCosine",
    "mel": "signal.MelDistance",
    "level": "signal.LevelDifference",
    "dnsmos": "models.DNSMOS",
    "distillmos": "models.DistillMOS",
    "wer": "models.WordErrorRate",
    "dwer": "models.DifferentialWordErrorRate",
    "phones": "models.PhoneErrorRate",
    "f0": "signal.F0Error",
    "voicing": "signal.VoicingError",
}
"""By name, in the order of a report's columns: module and class."""
DEFAULT = ("pesq", "stoi", "speaker", "mel", "level", "dnsmos", "distillmos", "wer", "phones")
"""Metrics of a codec."""
OPTIONAL = ("distillmos", "phones")
"""Metrics that are left out with a warning, not an error, where their package is missing and nobody named them."""

log = logging.getLogger(__name__)


def make_metrics(names: Sequence[str] | None = None, default: Sequence[str] = DEFAULT) -> list[Metric]:
    """The named metrics; None: those of ``default``.

    Raises:
        AudioVQError: for an unknown name, or a package that is not installed.
    """
    unknown = [name for name in names or [] if name not in METRICS]
    if unknown:
        raise AudioVQError(f"no metric {unknown[0]!r}: there are {', '.join(METRICS)}")
    metrics = []
    for name in dict.fromkeys(default if names is None else names):
        try:
            metrics.append(metric_class(name)())
        except AudioVQError as error:
            if names is not None or name not in OPTIONAL:
                raise
            log.warning("%s is left out: %s", name, error)
    return metrics


def metric_class(name: str) -> type[Metric]:
    """The class of a metric, for its label and direction; its package is not imported."""
    module, _, attribute = METRICS[name].partition(".")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def describe(metrics: Sequence[Metric]) -> dict[str, dict[str, object]]:
    """Label and direction of each metric, for a report."""
    return {metric.name: {"label": metric.label, "higher_is_better": metric.higher_is_better} for metric in metrics}
