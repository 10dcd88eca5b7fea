"""The report of a probe: accuracies instead of systems with scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiovq.evaluation.report import Report

if TYPE_CHECKING:
    from rich.table import Table


@dataclass
class ProbeReport(Report):
    """What can be read from the codes; see `evaluate_probe` for the figures."""

    figures: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"protocol": self.protocol, **self.figures}

    def tables(self) -> list[Table]:
        """Accuracies of the probes, then how the codebooks are used."""
        from rich import box
        from rich.table import Table

        f = self.figures
        title = f"Linear probes, accuracy % on {f['stretches']['test']} held-out stretches, ± 95 % confidence"
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for name in ("representation", "features"):
            table.add_column(name, no_wrap=True)
        for name, classes in f["classes"].items():
            table.add_column(f"{name} (of {classes})", justify="right")
        table.add_row("the largest class", "", *(f"{100 * f['majority'][name]:.1f}" for name in f["classes"]))
        for row in f["probes"]:
            table.add_row(row["representation"], row["features"], *(_percent(row[name]) for name in f["classes"]))
        use = Table(title="Codebooks", box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for name in ("book", "entropy, bits", "perplexity", "codes used %"):
            use.add_column(name, justify="right")
        for book in f["codebooks"]:
            numbers = (f"{book['entropy_bits']:.2f}", f"{book['perplexity']:.0f}", f"{100 * book['used']:.1f}")
            use.add_row(str(book["book"]), *numbers)
        return [table, use]

    def draw(self, path: str | Path) -> None:
        from audiovq.evaluation.probe.picture import draw_probe

        draw_probe(self.figures, path)


def _percent(mean: dict[str, Any]) -> str:
    spread = "" if mean["ci95"] is None else f" ±{100 * mean['ci95']:.1f}"
    return f"{100 * mean['mean']:.1f}{spread}"
