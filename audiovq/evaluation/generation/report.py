"""The report of a generation: likelihoods and statistics instead of systems with scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiovq.evaluation.report import Report

if TYPE_CHECKING:
    from rich.table import Table

Rows = list[tuple[str, ...]]


@dataclass
class GenerationReport(Report):
    """What a prior knows, and what its samples are like; see `evaluate_generation` for the figures."""

    figures: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"protocol": self.protocol, **self.figures}

    def tables(self) -> list[Table]:
        """Likelihoods, then samples beside real speech."""
        return [
            _table("Likelihood of held-out codes", ("model", "nats/code", "by book", "bits/s"), self._likelihood()),
            _table("Samples beside real speech", ("", "samples", "real speech", "other real speech"), self._samples()),
        ]

    def draw(self, path: str | Path) -> None:
        """A picture of all that has a shape."""
        from audiovq.evaluation.generation.picture import draw_generation

        draw_generation(self.figures, path)

    def _likelihood(self) -> Rows:
        rows: Rows = []
        for name, found in self.figures["likelihood"].items():
            books = " ".join(f"{x:.2f}" for x in found["nats_per_code_by_book"])
            rows.append((name, f"{found['nats_per_code']:.3f}", books, f"{found['bits_per_second']:.0f}"))
        return rows

    def _samples(self) -> Rows:
        f = self.figures
        names = ("samples", "real speech", "other real speech")
        rows: Rows = []
        for kind in ("unigram", "bigram"):
            for book in (0, -1):
                label = f"{kind} divergence, {'first' if book == 0 else 'last'} book, bits"
                drawn, other = (f["divergence"][name][kind][book] for name in (names[0], names[2]))
                rows.append((label, f"{drawn:.3f}", "0", f"{other:.3f}"))
        labels = {
            "pause_share": "share of pauses",
            "pauses_per_second": "pauses a second",
            "pause_seconds_mean": "mean pause, s",
            "voiced_share": "voiced share of the rest",
            "register_median": "register, Hz",
        }
        for key, label in labels.items():
            rows.append((label, *(_number(f["sound"][name][key]) for name in names)))
        if "dnsmos" in f:
            rated = [f["dnsmos"][name] for name in names[:2]]
            rows.append(
                ("DNSMOS", *(f"{x['mean']:.2f}" + (f" ±{x['ci95']:.2f}" if x["ci95"] else "") for x in rated), "")
            )
        for what in f["copied"]["samples"]:
            longest = (f"{f['copied'][name][what]['longest']:.2f}" for name in names[:2])
            rows.append((f"longest stretch in training, {what.replace('_', ' ')}, s", *longest, ""))
        return rows


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _table(title: str, columns: tuple[str, ...], rows: Rows) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(*columns, title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table
