"""A picture of an evaluated prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.files import atomic_write
from audiovq.optional import need

_COLOURS = {"samples": "#d62728", "real speech": "#1f77b4", "other real speech": "#7fb3d9"}


def draw_generation(figures: dict[str, Any], path: str | Path) -> None:
    """Nats by book, divergences by book, lengths of pauses.

    Raises:
        AudioVQError: when the file's type is unknown to matplotlib.
    """
    need("matplotlib", "a picture")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    nats, codes, lengths = figure.subplots(1, 3)
    for name, found in figures["likelihood"].items():
        values = found["nats_per_code_by_book"]
        nats.plot(range(1, len(values) + 1), values, marker="o", label=name)
    nats.set(title="nats per code (lower is better)", xlabel="book")
    for name, found in figures["divergence"].items():
        for kind, style in (("unigram", "-"), ("bigram", "--")):
            values = found[kind]
            label = f"{name}, {kind}"
            codes.plot(range(1, len(values) + 1), values, style, marker="o", color=_COLOURS[name], label=label)
    codes.set(title="divergence of codes from real speech, bits", xlabel="book")
    from audiovq.evaluation.generation.sound import PAUSE_EDGES

    ticks = [f"{low:.2g}" for low in PAUSE_EDGES[:-1]]
    for i, (name, found) in enumerate(figures["sound"].items()):
        values = found["pause_histogram"]
        place = np.arange(len(values)) + 0.27 * (i - 1)
        lengths.bar(place, values, 0.27, color=_COLOURS[name], label=name)
    lengths.set_xticks(range(len(ticks)), ticks)
    lengths.set(title="pauses by length", xlabel="seconds, from", ylabel="share of pauses")
    for axis in (nats, codes, lengths):
        axis.legend(fontsize=8, frameon=False)
        axis.grid(True, alpha=0.3)
    with atomic_write(path) as temporary:
        try:
            figure.savefig(temporary, dpi=120)
        except ValueError as error:
            raise AudioVQError(f"cannot draw {path}: {str(error).splitlines()[0]}; use .png, .svg or .pdf") from error
