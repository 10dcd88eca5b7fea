"""Plots of every report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from audiovq.errors import AudioVQError, need
from audiovq.io import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AUDIOVQ = "audiovq"
_STYLES = {
    AUDIOVQ: ("#d62728", "o"),
    f"{AUDIOVQ} wavenet": ("#e377c2", "*"),
    "Opus": ("#1f77b4", "s"),
    "Opus, forced to wide band": ("#7fb3d9", "D"),
    "Codec 2": ("#2ca02c", "^"),
    "Speex wide-band": ("#9467bd", "v"),
    "AMR-WB": ("#8c564b", "P"),
}
"""Colour and marker of each family."""
_COLOURS = {"samples": "#d62728", "real speech": "#1f77b4", "other real speech": "#7fb3d9"}
_TICKS = [0.5, 1, 2, 4, 8, 16]
_CODES_PIXELS = 128
"""Rows and columns of the plot of transitions, at most."""
_GAP, _MILLISECONDS = 3, 120


def _figure(width: float, height: float) -> Figure:
    need("matplotlib", "a plot")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _panels(n: int, n_columns: int, width: float, height: float, room: tuple[float, float]) -> tuple[Figure, Any]:
    """A figure with ``n`` panels of a size in inches, and the panels; ``room`` is added to the figure's size."""
    n_rows = -(-n // n_columns)
    figure = _figure(width * n_columns + room[0], height * n_rows + room[1])
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for axis in axes.flat[n:]:
        axis.set_visible(False)
    return figure, axes


def _save(figure: Figure, path: str | Path, dpi: int = 120) -> None:
    """Write a figure, completely or not at all.

    Raises:
        AudioVQError: when the file's type is unknown to matplotlib.
    """
    with atomic_write(path) as temporary:
        try:
            figure.savefig(temporary, dpi=dpi)
        except ValueError as error:
            raise AudioVQError(f"cannot draw {path}: {str(error).splitlines()[0]}; use .png, .svg or .pdf") from error


def draw_bitrates(systems: Sequence[Any], columns: Mapping[str, Any], path: str | Path) -> None:
    """One panel per metric: systems by their kb/s, audiovq the thick line; the shade is the 95 % confidence interval.

    Of several splits the first is drawn in full, and of the others only audiovq's line (dashed). ``systems`` are
    `audiovq.evaluation.report.SystemResult`.

    Raises:
        AudioVQError: when nothing was coded, or the file's type is unknown to matplotlib.
    """
    coded = [system for system in systems if system.kbps is not None]
    if not coded:
        raise AudioVQError("a plot shows quality against bit rate, and nothing was coded here: use --json")
    n_columns = {1: 1, 2: 2, 4: 2}.get(len(columns), 3 if len(columns) <= 6 else 4)
    figure, axes = _panels(len(columns), n_columns, 4.6, 3.4, (0, 0.9))
    splits = list(dict.fromkeys(system.split for system in coded))
    for axis, (name, column) in zip(axes.flat, columns.items(), strict=False):
        for split in splits:
            _draw_lines(axis, name, [s for s in coded if s.split == split], split, split == splits[0])
        _finish_panel(axis, name, column, [s for s in systems if s.split == splits[0]])
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False, fontsize=9)
    count = max(s.overall.n for s in coded if s.split == splits[0])
    figure.suptitle(f"Quality by bit rate, {splits[0] or 'pairs'} ({count} items)", fontsize=12)
    _save(figure, path)


def _draw_lines(axis: Axes, name: str, systems: Sequence[Any], split: str | None, first: bool) -> None:
    for family in dict.fromkeys(system.family for system in systems):
        own = family == AUDIOVQ
        if not first and not own:
            continue
        members = (system for system in systems if system.family == family)
        points = sorted(
            (system.kbps, mean.mean, mean.ci95 or 0.0)
            for system in members
            if (mean := system.overall.metrics.get(name))
        )
        rates, means, intervals = np.array(points).reshape(-1, 3).T
        colour, marker = _STYLES.get(family, (None, "x"))
        look: dict[str, Any] = {"linewidth": 2.2, "markersize": 6, "zorder": 3, "linestyle": "-" if first else "--"}
        if not own:
            look = {"linewidth": 1.0, "markersize": 5, "zorder": 2, "linestyle": ":"}
        look |= {"color": colour, "marker": marker, "markerfacecolor": None if first else "white"}
        axis.plot(rates, means, label=family if first else f"{family}, {split}", **look)
        axis.fill_between(rates, means - intervals, means + intervals, color=colour, alpha=0.12, linewidth=0)


def _finish_panel(axis: Axes, name: str, column: Any, systems: Sequence[Any]) -> None:
    direction = {True: " (higher is better)", False: " (lower is better)", None: ""}[column.higher_is_better]
    axis.set_title(f"{column.label}{direction}", fontsize=10)
    axis.set_xlabel("kb/s", fontsize=9)
    axis.set_xscale("log", base=2)
    axis.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axis.minorticks_off()
    found = [(system, mean) for system in systems if (mean := system.overall.metrics.get(name))]
    for _, mean in (one for one in found if one[0].kbps is None):
        axis.axhline(mean.mean, color="grey", linewidth=1, linestyle="-.", zorder=1)
        axis.text(0.99, mean.mean, "reference", transform=axis.get_yaxis_transform(), ha="right", va="bottom", size=8)
    if found:  # limits by the means: the interval of an item or two would flatten the rest
        means = [mean.mean for _, mean in found]
        margin = 0.12 * (max(means) - min(means)) or 0.1
        axis.set_ylim(min(means) - margin, max(means) + margin)
    axis.tick_params(labelsize=8)
    axis.grid(True, alpha=0.3)


def draw_matrices(matrices: Mapping[str, Mapping[str, Mapping[str, float]]], path: str | Path) -> None:
    """A panel for each system: rows are targets, columns the speakers compared with, shades the mean cosine.

    A dot marks each row's highest value: on the diagonal, the target is identified.

    Raises:
        AudioVQError: when no speakers were compared, or the file's type is unknown to matplotlib.
    """
    if not matrices:
        raise AudioVQError("the plot shows speaker similarity: --metrics must include speaker")
    figure, axes = _panels(len(matrices), min(len(matrices), 3), 5.2, 5.0, (1, 0))
    for axis, (name, matrix) in zip(axes.flat, matrices.items(), strict=False):
        targets = list(matrix)
        speakers = targets + [name for name in next(iter(matrix.values())) if name not in matrix]
        values = np.array([[matrix[row][speaker] for speaker in speakers] for row in targets])
        image = axis.imshow(values, vmin=0.4, vmax=1.0, cmap="magma", aspect="equal")
        axis.plot(values.argmax(axis=1), range(len(targets)), "o", color="white", markersize=4)
        names = [[speaker.rpartition("/")[2] for speaker in side] for side in (speakers, targets)]
        axis.set_xticks(range(len(speakers)), names[0], rotation=90, fontsize=7)
        axis.set_yticks(range(len(targets)), names[1], fontsize=7)
        axis.set_title(name, fontsize=10)
    figure.supxlabel("sounds like (cosine to the speaker's centroid)", fontsize=10)
    figure.supylabel("target", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.7)
    _save(figure, path, 110)


def draw_generation(figures: Mapping[str, Any], pause_ticks: Sequence[str], path: str | Path) -> None:
    """Nats by codebook, divergences by codebook, lengths of pauses.

    Raises:
        AudioVQError: when the file's type is unknown to matplotlib.
    """
    figure = _figure(13, 3.8)
    nats, codes, lengths = figure.subplots(1, 3)
    for name, found in figures["likelihood"].items():
        values = found["nats_per_code_by_codebook"]
        nats.plot(range(1, len(values) + 1), values, marker="o", label=name)
    nats.set(title="nats per code (lower is better)", xlabel="codebook")
    for name, found in figures["divergence"].items():
        for kind, style in (("unigram", "-"), ("bigram", "--")):
            values, label = found[kind], f"{name}, {kind}"
            codes.plot(range(1, len(values) + 1), values, style, marker="o", color=_COLOURS[name], label=label)
    codes.set(title="divergence of codes from real speech, bits", xlabel="codebook")
    for i, (name, found) in enumerate(figures["sound"].items()):
        values = found["pause_histogram"]
        lengths.bar(np.arange(len(values)) + 0.27 * (i - 1), values, 0.27, color=_COLOURS[name], label=name)
    lengths.set_xticks(range(len(pause_ticks)), pause_ticks)
    lengths.set(title="pauses by length", xlabel="seconds, from", ylabel="share of pauses")
    for axis in (nats, codes, lengths):
        axis.legend(fontsize=8, frameon=False)
        axis.grid(True, alpha=0.3)
    _save(figure, path)


@dataclass
class CodePhones:
    """Codes in an order by the phones they predict: indices ``phones`` (N,) of ``classes``.

    ``counts`` (N, classes): how often each code goes with each phone; ``transitions`` (N, N): with each next code.
    """

    classes: Sequence[str]
    counts: np.ndarray
    phones: np.ndarray
    transitions: np.ndarray


def draw_probe(figures: Mapping[str, Any], codes: CodePhones | None, path: str | Path) -> None:
    """Accuracies of the probes as bars and the use of the codebooks; below, the phones of the first codebook.

    Raises:
        AudioVQError: when there is nothing to draw, or the file's type is unknown to matplotlib.
    """
    n_rows = ("probes" in figures) + (codes is not None)
    if not n_rows:
        raise AudioVQError("there is nothing to draw")
    figure = _figure(12, 5 * n_rows + (codes is not None))
    axes = figure.subplots(n_rows, 2, squeeze=False)
    if "probes" in figures:
        _draw_accuracies(axes[0, 0], figures)
        _draw_codebook_use(axes[0, 1], figures["codebooks"])
    if codes is not None:
        _draw_codes(axes[-1, 0], axes[-1, 1], codes)
    _save(figure, path, 110)


def _draw_accuracies(bars: Axes, figures: Mapping[str, Any]) -> None:
    rows = figures["probes"]
    place = np.arange(len(rows))
    for shift, (target, classes) in zip((-0.2, 0.2), figures["classes"].items(), strict=True):
        means = np.array([100 * row[target]["mean"] for row in rows])
        spread = np.array([100 * (row[target]["ci95"] or 0) for row in rows])
        drawn = bars.barh(place + shift, means, 0.38, xerr=spread, label=f"{target} (of {classes})")
        bars.axvline(100 * figures["majority"][target], color=drawn[0].get_facecolor(), linestyle=":")
    bars.set_yticks(place, [f"{row['representation']}, {row['features']}" for row in rows], fontsize=8)
    bars.invert_yaxis()
    bars.set(xlim=(0, 100), xlabel="%", title="accuracy of linear probes; dotted: the largest class")
    bars.legend(fontsize=8)


def _draw_codebook_use(ranks: Axes, codebooks: Sequence[Mapping[str, Any]]) -> None:
    for codebook in codebooks:
        counts = np.array(codebook["counts"]) / sum(codebook["counts"])
        label = f"codebook {codebook['codebook']}"
        ranks.plot(np.arange(1, len(counts) + 1), np.maximum(counts, 1e-6), label=label)
    ranks.set(xscale="log", yscale="log", xlabel="rank of the code", ylabel="share of frames", title="codes in use")
    ranks.grid(alpha=0.3)
    ranks.legend(fontsize=8)


def _draw_codes(matrix: Axes, steps: Axes, codes: CodePhones) -> None:
    """Phones of each code, and transitions between codes; shares by their square roots, so that rare ones show."""
    n = len(codes.phones)
    shares = codes.counts / codes.counts.sum(axis=1, keepdims=True)
    matrix.imshow(np.sqrt(shares), aspect="auto", interpolation="nearest", cmap="magma", vmin=0, vmax=1)
    matrix.set_xticks(np.arange(len(codes.classes)), codes.classes, fontsize=6, rotation=90)
    matrix.set(ylabel="codes, by their phone", title="phones that a code of codebook 1 goes with")
    # Of a thousand codes each pair is too rare for a pixel: neighbours in the order are summed.
    follow = block_sums(codes.transitions, -(-n // _CODES_PIXELS))
    follow = follow / np.maximum(follow.sum(axis=1, keepdims=True), 1)
    extent = (-0.5, n - 0.5, n - 0.5, -0.5)
    steps.imshow(np.sqrt(follow), interpolation="nearest", cmap="magma", vmin=0, vmax=0.6, extent=extent)
    steps.set(xlabel="next code", ylabel="code", title="transitions between codes, in that order")
    edges = np.r_[np.flatnonzero(np.r_[True, codes.phones[1:] != codes.phones[:-1]]), n]
    wide = [(a, b) for a, b in pairwise(edges) if b - a >= n / 60]
    names = [codes.classes[codes.phones[a]] for a, _ in wide]
    for axis in (matrix.yaxis, steps.yaxis, steps.xaxis):
        axis.set_ticks([(a + b - 1) / 2 for a, b in wide], names, fontsize=6)


def block_sums(counts: np.ndarray, n: int) -> np.ndarray:
    """Sums over blocks of ``n`` rows and columns; the last may be smaller: (N, N) -> (ceil(N / n),) * 2."""
    starts = np.arange(0, len(counts), n)
    return np.add.reduceat(np.add.reduceat(counts, starts, axis=0), starts, axis=1)


def draw_rows(rows: Sequence[Tensor], path: str | Path, scale: int = 1, gap: int = 2) -> None:
    """Rows of images (N, C, H, W) in [0, 1], one above the other, as one image."""
    strips = [torch.cat([F.pad(one.expand(3, -1, -1), (0, gap, 0, gap), value=1.0) for one in row], 2) for row in rows]
    with atomic_write(path) as temporary:
        _to_image(torch.cat(strips, 1), scale).save(temporary)


def draw_filmstrip(pairs: Sequence[tuple[Tensor, Tensor]], path: str | Path) -> None:
    """Two rows for each pair of videos (3, T, H, W) in [0, 1]: the truth, and below it the prediction."""
    rows = []
    for pair in pairs:
        truth, prediction = (
            torch.cat([F.pad(frame, (0, _GAP), value=1.0) for frame in video.unbind(1)], 2) for video in pair
        )
        rows += [truth, F.pad(prediction, (0, 0, 0, 2 * _GAP), value=1.0)]
    with atomic_write(path) as temporary:
        _to_image(torch.cat(rows, 1)).save(temporary)


def draw_animation(pairs: Sequence[tuple[Tensor, Tensor]], path: str | Path) -> None:
    """A GIF, twice the size: a column for each pair of videos, the truth above the prediction."""
    columns = [torch.cat([F.pad(video, (0, _GAP, 0, _GAP), value=1.0) for video in pair], 2) for pair in pairs]
    frames = [_to_image(frame, 2) for frame in torch.cat(columns, 3).unbind(1)]
    with atomic_write(path) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=_MILLISECONDS, loop=0)


def _to_image(pixels: Tensor, scale: int = 1) -> Image.Image:
    """(3, H, W) in [0, 1]."""
    image = Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())
    return image.resize((image.width * scale, image.height * scale), 0) if scale > 1 else image
