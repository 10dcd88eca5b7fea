"""A recording and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from audiovq.errors import AudioVQError

SAMPLE_RATE = 16000
"""Every metric hears both sides at this rate, in Hz."""


@dataclass(frozen=True)
class Pair:
    """What the metrics compare.

    Attributes:
        id: unique within one evaluation: metrics remember what they found out about the reference by it.
        reference, degraded: (T,) float32 each, the same length, mono at 16 kHz.
        speaker: who speaks, or None.
        language: ISO 639 code, or None.
        text: what is said, where somebody wrote it down.
    """

    id: str
    reference: np.ndarray
    degraded: np.ndarray
    speaker: str | None = None
    language: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if self.reference.ndim != 1 or self.reference.shape != self.degraded.shape:
            raise ValueError(f"{self.id}: shapes {self.reference.shape} and {self.degraded.shape} are no pair")
        for name, samples in (("reference", self.reference), ("degraded", self.degraded)):
            if not np.isfinite(samples).all():
                raise AudioVQError(f"{self.id}: the {name} recording has samples that are NaN or infinite")

    @property
    def seconds(self) -> float:
        return len(self.reference) / SAMPLE_RATE
