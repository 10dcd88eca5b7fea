"""What every metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from audiovq.evaluation.pair import Pair
from audiovq.evaluation.statistics import Score


class Metric(ABC):
    """Scores pairs. Making one imports and loads all it needs, so that what is missing shows before the work starts.

    Attributes:
        name: in options and in JSON.
        label: in tables and pictures.
        higher_is_better: which way is up.
        decimals: how many say something.
        judges_alone: it says something of the reference itself, too (others compare it with itself: perfect).
    """

    name: ClassVar[str]
    label: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    decimals: ClassVar[int] = 2
    judges_alone: ClassVar[bool] = False

    @abstractmethod
    def score(self, pair: Pair) -> Score | None:
        """How good ``pair.degraded`` is, or None where this cannot be said (silence, a language it does not know)."""
