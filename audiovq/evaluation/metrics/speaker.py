"""Speaker similarity."""

from __future__ import annotations

from typing import Any

import numpy as np

from audiovq.errors import need, with_pkg_resources
from audiovq.evaluation.protocol import Metric, Pair, remembered
from audiovq.evaluation.stats import Score


def load_speaker_encoder() -> tuple[Any, Any]:
    """Resemblyzer's module and its encoder, on the CPU.

    Raises:
        AudioVQError: when it is not installed.
    """
    with with_pkg_resources():  # which its voice activity detector imports
        resemblyzer = need("resemblyzer", "speaker cosine")
    return resemblyzer, resemblyzer.VoiceEncoder("cpu", verbose=False)


class SpeakerCosine(Metric):
    """Cosine between the speaker embeddings of both sides (Wan et al. 2018, by the package `resemblyzer`).

    The level is normalised and long pauses are cut, as its authors do. Two similar speakers reach .83, a speaker and
    its own centroid .88 to .90.

    Attributes:
        embed: (T,) at 16 kHz -> unit vector (256,), None for a recording without speech; results are remembered.
    """

    name, label, higher_is_better, decimals = "speaker", "speaker", True, 3

    def __init__(self) -> None:
        self._resemblyzer, self._encoder = load_speaker_encoder()
        self.embed = remembered(self._embed)

    def _embed(self, samples: np.ndarray) -> np.ndarray | None:
        if not np.any(samples):
            return None
        voiced = self._resemblyzer.preprocess_wav(np.clip(samples, -1.0, 1.0))
        if not len(voiced):
            return None
        vector = self._encoder.embed_utterance(voiced)
        return vector if np.isfinite(vector).all() else None

    def score(self, pair: Pair) -> Score | None:
        """None for a reference without speech; 0 where only the degraded side has none."""
        reference = self.embed(pair.reference)
        if reference is None:
            return None
        degraded = self.embed(pair.degraded)
        return Score(0.0 if degraded is None else float(reference @ degraded))
