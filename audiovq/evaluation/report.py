"""Results: as dataclasses, as JSON, as a table."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiovq.evaluation.metrics import METRICS, Metric, metric_class
from audiovq.evaluation.pair import Pair
from audiovq.evaluation.statistics import Mean, Score, mean_of
from audiovq.files import atomic_write

if TYPE_CHECKING:
    from rich.table import Table

Scores = dict[str, Score | None]


@dataclass(frozen=True)
class Scored:
    """A pair after scoring, without its samples; ``scores`` by the metric's name."""

    id: str
    speaker: str | None
    language: str | None
    seconds: float
    scores: Scores


def score_pair(pair: Pair, metrics: Sequence[Metric]) -> Scored:
    """What every metric says of one pair."""
    scores = {metric.name: metric.score(pair) for metric in metrics}
    return Scored(pair.id, pair.speaker, pair.language, pair.seconds, scores)


@dataclass(frozen=True)
class Group:
    """Means over some pairs: how many pairs, and by the metric's name what they got (None: no pair has a score)."""

    n: int
    metrics: dict[str, Mean | None]

    @classmethod
    def of(cls, scored: Sequence[Scored]) -> Group:
        names = list(dict.fromkeys(name for one in scored for name in one.scores))
        return cls(len(scored), {name: mean_of([s for one in scored if (s := one.scores.get(name))]) for name in names})


@dataclass(frozen=True)
class SystemResult:
    """What one system reached on one split.

    Attributes:
        name, family, call: see `System`; "reference" is the recordings themselves.
        split: of the data; None for a folder of pairs.
        kbps: kilobits of coded speech a second; None where nothing was coded here.
        file_kbps: the same of whole files: for a short file, headers and the container weigh more.
        seconds: of speech.
        delay_ms: what was taken out before scoring.
        overall, by_speaker, by_language: the means.
        items: each pair's id and values.
    """

    name: str
    family: str
    call: str
    split: str | None
    kbps: float | None
    file_kbps: float | None
    seconds: float
    delay_ms: float
    overall: Group
    by_speaker: dict[str, Group]
    by_language: dict[str, Group]
    items: list[dict[str, Any]] = field(repr=False)


def summarise(scored: Sequence[Scored], **about: Any) -> SystemResult:
    """Means over all pairs, each speaker's and each language's; ``about``: the result's other fields."""

    def by(attribute: str) -> dict[str, Group]:
        groups: dict[str, list[Scored]] = defaultdict(list)
        for one in scored:
            if (key := getattr(one, attribute)) is not None:
                groups[key].append(one)
        return {key: Group.of(groups[key]) for key in sorted(groups)}

    items = []
    for one in scored:
        values = {name: score.value if score else None for name, score in one.scores.items()}
        items.append({"id": one.id, "seconds": one.seconds, **values})
    return SystemResult(
        **about,
        seconds=sum(one.seconds for one in scored),
        overall=Group.of(scored),
        by_speaker=by("speaker"),
        by_language=by("language"),
        items=items,
    )


def judge_reference(pairs: Iterable[Pair], metrics: Sequence[Metric], split: str | None = None) -> SystemResult:
    """The recordings themselves as the first row, by the metrics that need nothing to compare with."""
    alone = [metric for metric in metrics if metric.judges_alone]
    scored = [score_pair(replace(pair, degraded=pair.reference), alone) for pair in pairs]
    return summarise(
        scored,
        name="reference",
        family="reference",
        call="the recordings themselves",
        split=split,
        kbps=None,
        file_kbps=None,
        delay_ms=0.0,
    )


@dataclass
class Report:
    """One evaluation: how it was done, and what every system reached."""

    protocol: dict[str, Any]
    systems: list[SystemResult]

    @property
    def metric_names(self) -> list[str]:
        measured = {name for system in self.systems for name in system.overall.metrics}
        return [name for name in self.columns() if name in measured]

    @staticmethod
    def columns() -> Mapping[str, Any]:
        """What may be measured, in the order of the columns, each with a label, which way is up, and its decimals."""
        return {name: metric_class(name) for name in METRICS}

    def to_dict(self) -> dict[str, Any]:
        """For JSON: each system's overall means stand directly in it."""
        systems = []
        for system in self.systems:
            fields = asdict(system)
            systems.append({**fields.pop("overall"), **fields})
            # Names first, long lists last.
            order = ["name", "split", "kbps", "file_kbps", "n", "seconds", "metrics"]
            systems[-1] = {**{key: systems[-1][key] for key in order}, **systems[-1]}
        return {"protocol": self.protocol, "systems": systems}

    def draw(self, path: str | Path) -> None:
        """The report as a picture.

        Raises:
            AudioVQError: when there is nothing to draw, or the file's type is not known.
        """
        from audiovq.evaluation.picture import draw

        draw(self, path)

    def write_json(self, path: str | Path) -> None:
        """Write it, whole or not at all; NaN never occurs."""
        with atomic_write(path) as temporary:
            temporary.write_text(
                json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
            )

    def tables(self) -> list[Table]:
        """One table per split, a row per system."""
        splits = list(dict.fromkeys(system.split for system in self.systems))
        return [self._table(split) for split in splits]

    def _table(self, split: str | None) -> Table:
        from rich import box
        from rich.table import Table

        systems = [system for system in self.systems if system.split == split]
        most = max(systems, key=lambda system: system.overall.n)
        title = f"{split or 'pairs'}: {most.overall.n} items, {most.seconds / 60:.1f} minutes, mean ± 95 % confidence"
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        coded = any(system.kbps is not None for system in systems)
        table.add_column("system", no_wrap=True)
        if coded:
            table.add_column("kb/s", justify="right", no_wrap=True)
        columns = self.columns()
        for name in self.metric_names:
            arrow = {True: " ↑", False: " ↓", None: ""}[columns[name].higher_is_better]
            table.add_column(f"{columns[name].label}{arrow}", justify="right")
        for system in systems:
            rate = [f"{system.kbps:.2f}" if system.kbps is not None else "–"] if coded else []
            values = [_cell(system.overall.metrics.get(name), columns[name].decimals) for name in self.metric_names]
            table.add_row(system.name, *rate, *values)
        return table


def _cell(mean: Mean | None, decimals: int) -> str:
    if mean is None:
        return "–"
    return f"{mean.mean:.{decimals}f}" + ("" if mean.ci95 is None else f" ±{mean.ci95:.{decimals}f}")
