"""Does it still sound like the same person?"""

from __future__ import annotations

import hashlib

import numpy as np

from audiovq.evaluation.metrics.base import Metric
from audiovq.evaluation.pair import Pair
from audiovq.evaluation.statistics import Score
from audiovq.optional import need, with_pkg_resources


def load_voice_encoder():
    """Resemblyzer's module and its encoder, on the CPU.

    Raises:
        AudioVQError: when it is not installed.
    """
    with with_pkg_resources():  # which its voice detector wants
        resemblyzer = need("resemblyzer", "speaker cosine")
    return resemblyzer, resemblyzer.VoiceEncoder("cpu", verbose=False)


class SpeakerCosine(Metric):
    """Cosine between the speaker embeddings of both sides (Wan et al. 2018, by the package `resemblyzer`).

    Volume is normalised and long pauses cut, as its authors do. Read it with care: two voices of one kind reach .83,
    a voice and its own centroid .88 to .90.
    """

    name, label, higher_is_better, decimals = "speaker", "speaker", True, 3

    def __init__(self) -> None:
        self._resemblyzer, self._encoder = load_voice_encoder()
        self._embedded: dict[bytes, np.ndarray | None] = {}

    def embed(self, samples: np.ndarray) -> np.ndarray | None:
        """(T,) at 16 kHz -> unit vector (256,); None when no voice is found. Remembered for the next system."""
        key = hashlib.sha256(samples.tobytes()).digest()
        if key not in self._embedded:
            self._embedded[key] = self._embed(samples)
        return self._embedded[key]

    def _embed(self, samples: np.ndarray) -> np.ndarray | None:
        if not np.any(samples):
            return None
        voiced = self._resemblyzer.preprocess_wav(np.clip(samples, -1.0, 1.0))
        if not len(voiced):
            return None
        vector = self._encoder.embed_utterance(voiced)
        return vector if np.isfinite(vector).all() else None

    def score(self, pair: Pair) -> Score | None:
        """None where the reference has no voice; 0 where only the degraded side has lost it."""
        reference = self.embed(pair.reference)
        if reference is None:
            return None
        degraded = self.embed(pair.degraded)
        return Score(0.0 if degraded is None else float(reference @ degraded))
