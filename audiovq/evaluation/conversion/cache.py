"""What was judged before is not judged again: a second run costs the conversions alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from audiovq.files import atomic_write, cache_dir


class Judgements:
    """Values by what they were made of, kept in files of one folder.

    Args:
        folder: ``<cache>/evaluation/conversion`` by default.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else cache_dir() / "evaluation" / "conversion"

    def get(self, kind: str, key: str, make: Callable[[], Any]) -> Any:
        """The value under ``key``; made, and kept as JSON, when it is not there or cannot be read.

        Args:
            kind: what is judged, with a version when its meaning changes.
            key: of everything the value depends on (see `fingerprint`).
            make: gives it: numbers, lists of them, None.
        """
        path = self.folder / kind / f"{key}.json"
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            value = make()
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(value))
        return value


def fingerprint(samples: np.ndarray, *more: object) -> str:
    """A key for these samples and whatever else matters."""
    digest = hashlib.sha256(np.ascontiguousarray(samples, np.float32).tobytes())
    digest.update(repr(more).encode())
    return digest.hexdigest()[:40]
