"""The report of a conversion: as others, with the matrix of who sounds like whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audiovq.evaluation.conversion.measures import MEASURES
from audiovq.evaluation.report import Report

#: Mean cosines: by system, then by the voice that was wanted, then by the voice compared with.
Matrices = dict[str, dict[str, dict[str, float]]]


@dataclass
class ConversionReport(Report):
    """What every converter reached on seen and on unseen targets."""

    matrices: Matrices = field(default_factory=dict)

    @staticmethod
    def columns() -> Mapping[str, Any]:
        return MEASURES

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "similarity": self.matrices}

    def draw(self, path: str | Path) -> None:
        from audiovq.evaluation.conversion.picture import draw_matrices

        draw_matrices(self.matrices, path)
