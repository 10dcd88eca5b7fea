"""What codes tell, and how the codebooks are used, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.files import atomic_write
from audiovq.optional import need


def draw_probe(figures: dict[str, Any], path: str | Path, arrays: dict[str, np.ndarray] | None = None) -> None:
    """Accuracies of the probes as bars, beside them how often each book's codes are used, in falling order; below,
    when there are ``arrays``, the phones that the first book's codes go with, and which code follows which.

    Raises:
        AudioVQError: when the file's type is unknown to matplotlib.
    """
    matplotlib = need("matplotlib", "a picture")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = ("probes" in figures) + bool(arrays)
    if not rows:
        raise AudioVQError("there is nothing to draw")
    figure, axes = pyplot.subplots(rows, 2, figsize=(12, 5 * rows + bool(arrays)), layout="constrained", squeeze=False)
    try:
        if "probes" in figures:
            _draw_voices(axes[0, 0], axes[0, 1], figures)
        if arrays:
            from audiovq.evaluation.probe.phone_picture import draw_codes

            draw_codes(axes[-1, 0], axes[-1, 1], arrays["counts"], arrays["transitions"])
        with atomic_write(path) as temporary:
            try:
                figure.savefig(temporary, dpi=110)
            except ValueError as error:
                reason = str(error).splitlines()[0]
                raise AudioVQError(f"cannot draw {path}: {reason}; use .png, .svg or .pdf") from error
    finally:
        pyplot.close(figure)


def _draw_voices(bars: Any, ranks: Any, figures: dict[str, Any]) -> None:
    rows = figures["probes"]
    names = [f"{row['representation']}, {row['features']}" for row in rows]
    place = np.arange(len(rows))
    for shift, (target, classes) in zip((-0.2, 0.2), figures["classes"].items(), strict=True):
        means = np.array([100 * row[target]["mean"] for row in rows])
        spread = np.array([100 * (row[target]["ci95"] or 0) for row in rows])
        drawn = bars.barh(place + shift, means, 0.38, xerr=spread, label=f"{target} (of {classes})")
        bars.axvline(100 * figures["majority"][target], color=drawn[0].get_facecolor(), linestyle=":")
    bars.set_yticks(place, names, fontsize=8)
    bars.invert_yaxis()
    bars.set(xlim=(0, 100), xlabel="%", title="read off by a linear probe; dotted: the largest class")
    bars.legend(fontsize=8)
    for book in figures["codebooks"]:
        counts = np.array(book["counts"]) / sum(book["counts"])
        ranks.plot(np.arange(1, len(counts) + 1), np.maximum(counts, 1e-6), label=f"book {book['book']}")
    ranks.set(xscale="log", yscale="log", xlabel="rank of the code", ylabel="share of frames", title="codes in use")
    ranks.grid(alpha=0.3)
    ranks.legend(fontsize=8)
