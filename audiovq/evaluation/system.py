"""What is evaluated: anything that makes a waveform into bytes and bytes into a waveform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Coded:
    """One stretch after coding.

    Attributes:
        waveform: (T',) float32 at 16 kHz; T' may differ from what went in.
        payload_bytes: of the coded speech itself.
        file_bytes: of the whole file: with headers, checksums and the container.
    """

    waveform: np.ndarray
    payload_bytes: int
    file_bytes: int


class System(Protocol):
    """A codec at one setting.

    Attributes:
        name: unique in a report.
        family: systems of one family are one line in a picture.
        call: how it was run, for the report.
        exact: its output is aligned to the sample; else a common delay is looked for and taken out.
    """

    name: str
    family: str
    call: str
    exact: bool

    def code(self, waveform: np.ndarray) -> Coded:
        """Encode and decode (T,) float32 at 16 kHz."""
        ...
