"""Bit rate against quality."""

from __future__ import annotations

from pathlib import Path

from audiovq.errors import AudioVQError
from audiovq.evaluation.metrics import metric_class
from audiovq.evaluation.report import Report, SystemResult
from audiovq.files import atomic_write
from audiovq.optional import need

OWN = "audiovq"
_COLOURS = {
    OWN: "#d62728",
    "Opus": "#1f77b4",
    "Opus, forced to wide band": "#7fb3d9",
    "Codec 2": "#2ca02c",
    "Speex wide-band": "#9467bd",
    "AMR-WB": "#8c564b",
}
_MARKERS = {
    OWN: "o",
    "Opus": "s",
    "Opus, forced to wide band": "D",
    "Codec 2": "^",
    "Speex wide-band": "v",
    "AMR-WB": "P",
}


def draw(report: Report, path: str | Path) -> None:
    """One panel per metric: systems by their kb/s, ours the thick line; the shade is the 95 % confidence interval.

    Of several splits the first is drawn in full, and of the others only our line (dashed).

    Raises:
        AudioVQError: when nothing in the report was coded, or the file's type is unknown to matplotlib.
    """
    matplotlib = need("matplotlib", "a picture")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    coded = [system for system in report.systems if system.kbps is not None]
    if not coded:
        raise AudioVQError("a picture shows quality against bit rate, and nothing was coded here: use --json")
    names = report.metric_names
    columns = {1: 1, 2: 2, 4: 2}.get(len(names), 3 if len(names) <= 6 else 4)
    rows = -(-len(names) // columns)
    size = (4.6 * columns, 3.4 * rows + 0.9)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    splits = list(dict.fromkeys(system.split for system in coded))
    try:
        for axis, name in zip(axes.flat, names, strict=False):
            for split in splits:
                _draw_panel(axis, name, [s for s in coded if s.split == split], split, split == splits[0])
            _draw_reference(axis, name, [s for s in report.systems if s.kbps is None and s.split == splits[0]])
            _finish_panel(axis, name, [s for s in report.systems if s.split == splits[0]])
        for axis in axes.flat[len(names) :]:
            axis.set_visible(False)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False, fontsize=9)
        count = max(s.overall.n for s in coded if s.split == splits[0])
        figure.suptitle(f"Quality by bit rate, {splits[0] or 'pairs'} ({count} items)", fontsize=12)
        with atomic_write(path) as temporary:
            try:
                figure.savefig(temporary, dpi=130)
            except ValueError as error:
                raise AudioVQError(
                    f"cannot draw {path}: {str(error).splitlines()[0]}; use .png, .svg or .pdf"
                ) from error
    finally:
        pyplot.close(figure)


def _draw_panel(axis, name: str, systems: list[SystemResult], split: str | None, first: bool) -> None:
    for family in dict.fromkeys(system.family for system in systems):
        if not first and family != OWN:
            continue
        points = sorted(
            (system.kbps, mean.mean, mean.ci95 or 0.0)
            for system in systems
            if system.family == family and system.kbps is not None and (mean := system.overall.metrics.get(name))
        )
        rates, means = [p[0] for p in points], [p[1] for p in points]
        low, high = [p[1] - p[2] for p in points], [p[1] + p[2] for p in points]
        own = family == OWN
        label = family if first else f"{family}, {split}"
        axis.plot(
            rates,
            means,
            color=_COLOURS.get(family),
            marker=_MARKERS.get(family, "x"),
            linestyle=("-" if first else "--") if own else ":",
            linewidth=2.2 if own else 1.0,
            markersize=6 if own else 5,
            markerfacecolor=None if first else "white",
            zorder=3 if own else 2,
            label=label,
        )
        axis.fill_between(rates, low, high, color=_COLOURS.get(family), alpha=0.12, linewidth=0)


def _draw_reference(axis, name: str, references: list[SystemResult]) -> None:
    for system in references:
        if mean := system.overall.metrics.get(name):
            axis.axhline(mean.mean, color="grey", linewidth=1, linestyle="-.", zorder=1)
            axis.annotate(
                "reference", (0.99, mean.mean), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
            )


def _finish_panel(axis, name: str, systems: list[SystemResult]) -> None:
    metric = metric_class(name)
    axis.set_title(f"{metric.label} ({'higher' if metric.higher_is_better else 'lower'} is better)", fontsize=10)
    axis.set_xlabel("kb/s", fontsize=9)
    axis.set_xscale("log", base=2)
    ticks = [0.5, 1, 2, 4, 8, 16]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    # By the means: the interval of an item or two would leave the rest a flat line.
    means = [mean.mean for system in systems if (mean := system.overall.metrics.get(name))]
    if means:
        margin = 0.12 * (max(means) - min(means)) or 0.1
        axis.set_ylim(min(means) - margin, max(means) + margin)
    axis.tick_params(labelsize=8)
    axis.grid(True, alpha=0.3)
