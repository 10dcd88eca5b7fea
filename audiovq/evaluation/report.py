"""Results of systems by metric: as dataclasses, as JSON, as tables."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from audiovq.evaluation import plots
from audiovq.evaluation.metrics import METRICS
from audiovq.evaluation.protocol import Mean, Metric, Pair, Score, mean_of
from audiovq.io import atomic_write

Scores = dict[str, Score | None]
REFERENCE = "reference"


class Report(ABC):
    """The result of an evaluation."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""

    @abstractmethod
    def tables(self) -> list[Table]:
        """The main figures, for a terminal."""

    @abstractmethod
    def draw(self, path: str | Path) -> None:
        """Write a plot.

        Raises:
            AudioVQError: when there is nothing to plot, or the file's type is unknown.
        """

    def write_json(self, path: str | Path) -> None:
        """Write the figures, completely or not at all; NaN never occurs."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        with atomic_write(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


@dataclass
class FiguresReport(Report):
    """Named figures, with the settings they were measured at, instead of systems by metric."""

    figures: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return self.figures


def make_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]] = (), n_left: int = 1) -> Table:
    """A table whose first ``n_left`` columns are names and the others figures."""
    # Titles are folded to the width of their table.
    table = Table(title=title, min_width=len(title), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < n_left else "right", no_wrap=i < n_left)
    for row in rows:
        table.add_row(*row)
    return table


@dataclass(frozen=True)
class Scored:
    """An item after scoring, without its samples; ``scores`` by the metric's name."""

    id: str
    speaker: str | None
    language: str | None
    seconds: float
    scores: Scores


def score_pair(pair: Pair, metrics: Sequence[Metric]) -> Scored:
    """The scores of one pair by every metric."""
    scores = {metric.name: metric.score(pair) for metric in metrics}
    return Scored(pair.id, pair.speaker, pair.language, pair.seconds, scores)


@dataclass(frozen=True)
class Group:
    """Means over ``n`` items by the metric's name; None: no item has a score."""

    n: int
    metrics: dict[str, Mean | None]

    @classmethod
    def of(cls, scored: Sequence[Scored]) -> Group:
        names = list(dict.fromkeys(name for one in scored for name in one.scores))
        return cls(len(scored), {name: mean_of([s for one in scored if (s := one.scores.get(name))]) for name in names})


@dataclass(frozen=True)
class SystemResult:
    """The result of one system on one split.

    Attributes:
        name, family, call, n_codebooks: see `audiovq.evaluation.protocol.System`; the system "reference" is the
            recordings themselves.
        split: of the data; None for a folder of pairs.
        excess: means of the differences to the recordings themselves, by the metrics that rate these too.
        items: each item's id and values.
        kbps: kilobits of coded speech a second; None where nothing was coded.
        file_kbps: the same of whole files: in a short file, headers and the container weigh more.
        delay_ms: delay removed before scoring.
        compared_with, difference: another system's name, and means of the differences to its scores, by metric.
    """

    name: str
    family: str
    call: str
    split: str | None
    seconds: float
    overall: Group
    by_speaker: dict[str, Group]
    by_language: dict[str, Group]
    excess: dict[str, Mean | None]
    items: list[dict[str, Any]] = field(repr=False)
    n_codebooks: int | None = None
    kbps: float | None = None
    file_kbps: float | None = None
    delay_ms: float = 0.0
    compared_with: str | None = None
    difference: dict[str, Mean | None] = field(default_factory=dict)


def summarise(scored: Sequence[Scored], reference: Sequence[Scored] = (), **about: Any) -> SystemResult:
    """Means over all items, each speaker's and each language's.

    ``reference`` are the recordings themselves, rated without a reference, in the same order; ``about`` the result's
    other fields.
    """

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
        excess=paired_differences(scored, reference),
        items=items,
    )


def paired_differences(scored: Sequence[Scored], others: Sequence[Scored]) -> dict[str, Mean | None]:
    """Means of the differences to the same items, in the same order, by another system (or none), by common metrics."""
    found: dict[str, list[Score]] = defaultdict(list)
    for one, other in zip(scored, others, strict=bool(others)):
        for name, base in other.scores.items():
            score = one.scores.get(name)
            if score is not None and base is not None:
                found[name].append(Score(score.value - base.value, score.weight))
    return {name: mean_of(scores) for name, scores in found.items()}


def score_reference(pairs: Iterable[Pair], metrics: Sequence[Metric]) -> list[Scored]:
    """The recordings themselves, by the metrics that need no reference."""
    alone = [metric for metric in metrics if metric.no_reference]
    return [score_pair(replace(pair, degraded=pair.reference), alone) for pair in pairs] if alone else []


def reference_result(scored: Sequence[Scored], split: str | None = None) -> SystemResult:
    """The recordings themselves as a row."""
    call = "the recordings themselves"
    return summarise(scored, name=REFERENCE, family=REFERENCE, call=call, split=split)


@dataclass
class SystemReport(Report):
    """Systems by metric: the settings of the evaluation, and every system's result."""

    protocol: dict[str, Any]
    systems: list[SystemResult]

    @property
    def metric_names(self) -> list[str]:
        measured = {name for system in self.systems for name in system.overall.metrics}
        return [name for name in self.columns() if name in measured]

    @staticmethod
    def columns() -> Mapping[str, Any]:
        """The possible columns in their order, each with a label, a direction and its decimals."""
        return METRICS

    def to_dict(self) -> dict[str, Any]:
        """For JSON: each system's overall means are directly in it."""
        systems = []
        for system in self.systems:
            fields = asdict(system)
            fields |= fields.pop("overall")
            # Names first, long lists last.
            order = ["name", "split", "n_codebooks", "kbps", "file_kbps", "n", "seconds", "metrics", "excess"]
            systems.append({**{key: fields[key] for key in order}, **fields})
        return {"protocol": self.protocol, "systems": systems}

    def draw(self, path: str | Path) -> None:
        plots.draw_bitrates(self.systems, {name: self.columns()[name] for name in self.metric_names}, path)

    def tables(self) -> list[Table]:
        """One table per split, a row per system; in parentheses the values of the recordings themselves.

        A second one has the differences of systems that are compared.
        """
        found = []
        for split in dict.fromkeys(system.split for system in self.systems):
            found.append(self._table(split))
            if compared := [s for s in self.systems if s.split == split and s.compared_with is not None]:
                found.append(self._differences(split, compared))
        return found

    def _differences(self, split: str | None, systems: Sequence[SystemResult]) -> Table:
        columns = {name: self.columns()[name] for name in self.metric_names}
        rows = []
        for system in systems:
            means = [(system.difference.get(name), column.decimals) for name, column in columns.items()]
            cells = (mean.text(decimals, signed=True) if mean else "–" for mean, decimals in means)
            rows.append([f"{system.name} – {system.compared_with}", *cells])
        title = f"{split or 'pairs'}: paired differences, mean ± 95 % confidence"
        return make_table(title, ["systems", *(_label(column, False) for column in columns.values())], rows)

    def _table(self, split: str | None) -> Table:
        systems = [system for system in self.systems if system.split == split]
        most = max(systems, key=lambda system: system.overall.n)
        title = f"{split or 'pairs'}: {most.overall.n} items, {most.seconds / 60:.1f} minutes, mean ± 95 % confidence"
        sizes = {"codebooks": "n_codebooks", "kb/s": "kbps", "kb/s of files": "file_kbps"}
        sizes = {label: key for label, key in sizes.items() if any(getattr(s, key) is not None for s in systems)}
        compared = {name for system in systems for name in system.excess}
        labels = [_label(self.columns()[name], name in compared) for name in self.metric_names]
        rows = []
        for system in systems:
            cells = [_number(getattr(system, key)) for key in sizes.values()]
            cells += [_cell(system, name, self.columns()[name], name in compared) for name in self.metric_names]
            rows.append([system.name, *cells])
        return make_table(title, ["system", *sizes, *labels], rows)


def _label(column: Any, compared: bool) -> str:
    if compared:
        return f"{column.label} {'below' if column.higher_is_better else 'above'}"
    return column.label + {True: " ↑", False: " ↓", None: ""}[column.higher_is_better]


def _cell(system: SystemResult, name: str, column: Any, compared: bool) -> str:
    """A mean; in a compared column the distance to the recordings, whose own value is in parentheses."""
    mean = system.overall.metrics.get(name)
    if compared and system.excess:
        mean, sign = system.excess.get(name), -1 if column.higher_is_better else 1
        mean = mean and replace(mean, mean=sign * mean.mean)
    if mean is None:
        return "–"
    text = mean.text(column.decimals)
    return f"({text})" if compared and not system.excess else text


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
