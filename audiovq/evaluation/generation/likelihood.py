"""Nats per code and bits per second of a prior on held-out speech, beside the uniform prior and a trigram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from audiovq.data.code_stretches import CodeRuns, CodeTape
from audiovq.evaluation.generation.ngram import Trigram
from audiovq.evaluation.progress import Progress, silent
from audiovq.prior.speech import SpeechPrior, condition_of

RUN_SECONDS = 10.24
_BATCH = 8


@dataclass(frozen=True)
class Likelihood:
    """Mean nats of a code of each book, and what they cost a second."""

    name: str
    nats: list[float]
    frame_rate: float

    def bits_per_second(self, n_codebooks: int | None = None) -> float:
        """Of the first books; all by default."""
        return sum(self.nats[:n_codebooks]) * self.frame_rate / math.log(2)

    def to_dict(self) -> dict[str, object]:
        n = len(self.nats)
        return {
            "nats_per_code": sum(self.nats) / n,
            "nats_per_code_by_book": self.nats,
            "bits_per_second": self.bits_per_second(),
            "bits_per_second_by_books": [self.bits_per_second(k) for k in range(1, n + 1)],
        }


@torch.inference_mode()
def prior_nats(
    source: SpeechPrior, tapes: Sequence[CodeTape], conditions: bool = True, progress: Progress = silent
) -> np.ndarray:
    """Mean nats of a code of each book (K,): tapes in runs of about 10 s, each given the frame before it."""
    prior, codec = source.prior, source.codec
    runs = CodeRuns(tapes, prior.conditioner.languages, round(RUN_SECONDS * codec.frame_rate), prior.absent)
    total, count = np.zeros(prior.n_codebooks), np.zeros(prior.n_codebooks)
    for start in range(0, len(runs), _BATCH):
        progress("likelihood", start, len(runs))
        items = [runs[i] for i in range(start, min(start + _BATCH, len(runs)))]
        batch = {name: torch.stack([torch.as_tensor(item[name]) for item in items]) for name in items[0]}
        told = condition_of(codec, batch) if conditions else None
        nats = prior.nll(batch["codes"], told, batch["before"])
        total += nats.double().sum((0, 2)).numpy()
        count += (batch["codes"] != prior.absent).sum((0, 2)).numpy()
    return total / count


def likelihoods(
    source: SpeechPrior,
    train: Sequence[CodeTape],
    validation: Sequence[CodeTape],
    test: Sequence[CodeTape],
    progress: Progress = silent,
) -> list[Likelihood]:
    """The prior with and without its conditions, the trigram, and the uniform prior."""
    codec = source.codec
    k, size = source.prior.n_codebooks, source.prior.codebook_size
    trigram = Trigram([t.codes for t in train], [t.codes for t in validation], size)
    rows = [
        ("prior", prior_nats(source, test, True, progress)),
        ("prior, without conditions", prior_nats(source, test, False, progress)),
        ("interpolated trigram", trigram.nats([t.codes for t in test])),
        ("uniform", np.full(k, math.log(size))),
    ]
    return [Likelihood(name, [float(x) for x in nats], codec.frame_rate) for name, nats in rows]
