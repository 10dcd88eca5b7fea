"""The report of a probe: accuracies instead of systems with scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiovq.evaluation.report import Report

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table


@dataclass
class ProbeReport(Report):
    """What can be read from the codes; see `evaluate_probe` for the figures."""

    figures: dict[str, Any] = field(default_factory=dict)
    #: For the picture alone: see `audiovq.evaluation.probe.phones.probe_phones`.
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"protocol": self.protocol, **self.figures}

    def tables(self) -> list[Table]:
        """Accuracies of the probes, how the codebooks are used, then phones."""
        return [*(self._voices() if "probes" in self.figures else ()), *self._phones()]

    def _voices(self) -> list[Table]:
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

    def _phones(self) -> list[Table]:
        from rich import box
        from rich.table import Table

        f = self.figures.get("phones")
        if f is None:
            return []
        if "left_out" in f:
            note = Table("Phones", box=box.SIMPLE_HEAD, pad_edge=False)
            note.add_row(f"left out: {f['left_out']}")
            return [note]
        title = (
            f"Phones of {len(f['classes'])} classes, by majority of each code: accuracy % of frames in "
            f"{f['utterances']['test']} held-out utterances, ± 95 % confidence"
        )
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for name in ("Hz", "codes"):
            table.add_column(name, justify="right")
        table.add_column("representation", no_wrap=True)
        for name in ("speech", "times the largest class", "with silence"):
            table.add_column(name, justify="right")
        for group in f["groups"]:
            rate, size, largest = f"{group['frame_rate']:g}", str(group["codebook_size"]), group["largest_class"]
            table.add_row(rate, "1", "the largest class", _percent(largest["speech"]), "1.0", _percent(largest["all"]))
            for row in group["rows"]:
                times = row["speech"]["mean"] / largest["speech"]["mean"] if largest["speech"]["mean"] else 0.0
                found = (_percent(row["speech"]), f"{times:.1f}", _percent(row["all"]))
                table.add_row(rate, size, row["representation"], *found)
        return [table]

    def draw(self, path: str | Path) -> None:
        from audiovq.evaluation.probe.picture import draw_probe

        draw_probe(self.figures, path, self.arrays)


def _percent(mean: dict[str, Any]) -> str:
    spread = "" if mean["ci95"] is None else f" ±{100 * mean['ci95']:.1f}"
    return f"{100 * mean['mean']:.1f}{spread}"
