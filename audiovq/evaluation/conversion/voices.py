"""Where the voices are: unit vectors of Resemblyzer, their centroids, and which of them is nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from audiovq.evaluation.conversion.cache import Judgements, fingerprint
from audiovq.evaluation.metrics.speaker import SpeakerCosine


class Ear:
    """Embeds speech, remembering what it heard."""

    def __init__(self, cache: Judgements) -> None:
        self._cache = cache
        self._cosine: SpeakerCosine | None = None

    def embed(self, samples: np.ndarray) -> np.ndarray | None:
        """(T,) at 16 kHz -> unit vector (256,); None where no voice is heard."""

        def hear() -> list[float] | None:
            if self._cosine is None:
                self._cosine = SpeakerCosine()
            vector = self._cosine.embed(samples)
            return None if vector is None else [round(float(value), 6) for value in vector]

        found = self._cache.get("embedding", fingerprint(samples), hear)
        return None if found is None else np.array(found)

    def centroid(self, recordings: Sequence[np.ndarray]) -> np.ndarray:
        """The direction between some recordings of a voice, (256,)."""
        vectors = [vector for samples in recordings if (vector := self.embed(samples)) is not None]
        if not vectors:
            raise ValueError("no voice is heard in any of the recordings")
        return unit(np.mean(vectors, axis=0))


def unit(vector: np.ndarray) -> np.ndarray:
    """Scaled to length 1."""
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def cosines(vector: np.ndarray | None, centroids: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of one recording to every voice; 0 where it has lost its voice."""
    if vector is None:
        return dict.fromkeys(centroids, 0.0)
    return {name: float(vector @ centroid) for name, centroid in centroids.items()}


def nearest(similarities: Mapping[str, float]) -> str:
    """The voice with the highest cosine."""
    return max(similarities, key=lambda name: similarities[name])
