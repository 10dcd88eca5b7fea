"""Who sounds like whom, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.evaluation.conversion.pairs import short_name
from audiovq.files import atomic_write
from audiovq.optional import need

if TYPE_CHECKING:
    from audiovq.evaluation.conversion.report import Matrices


def draw_matrices(matrices: Matrices, path: str | Path) -> None:
    """A panel for each system: rows are the voices wanted, columns the voices compared with, shades the mean cosine.

    A dot marks each row's highest value: on the diagonal, the wanted voice is found.

    Raises:
        AudioVQError: when no voices were compared, or the file's type is unknown to matplotlib.
    """
    matplotlib = need("matplotlib", "a picture")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    if not matrices:
        raise AudioVQError("a picture shows which voices are alike: measure speaker (--metrics)")
    columns = min(len(matrices), 3)
    rows = -(-len(matrices) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(5.2 * columns + 1, 5.0 * rows), squeeze=False, layout="constrained"
    )
    image = None
    try:
        for axis, (name, matrix) in zip(axes.flat, matrices.items(), strict=False):
            wanted = list(matrix)
            voices = wanted + [v for v in next(iter(matrix.values())) if v not in matrix]
            values = np.array([[matrix[row][voice] for voice in voices] for row in wanted])
            image = axis.imshow(values, vmin=0.4, vmax=1.0, cmap="magma", aspect="equal")
            axis.plot(values.argmax(axis=1), range(len(wanted)), "o", color="white", markersize=4)
            axis.set_xticks(range(len(voices)), map(short_name, voices), rotation=90, fontsize=7)
            axis.set_yticks(range(len(wanted)), map(short_name, wanted), fontsize=7)
            axis.set_title(name, fontsize=10)
        for axis in axes.flat[len(matrices) :]:
            axis.set_visible(False)
        figure.supxlabel("sounds like (cosine to the voice's centroid)", fontsize=10)
        figure.supylabel("wanted", fontsize=10)
        if image is not None:
            figure.colorbar(image, ax=axes, shrink=0.7)
        with atomic_write(path) as temporary:
            try:
                figure.savefig(temporary, dpi=110)
            except ValueError as error:
                reason = str(error).splitlines()[0]
                raise AudioVQError(f"cannot draw {path}: {reason}; use .png, .svg or .pdf") from error
    finally:
        pyplot.close(figure)
