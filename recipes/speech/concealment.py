"""Statistics by which a speech model conceals lost packets, written beside the model's weights.

python recipes/speech/concealment.py [--model DIR] [--minutes N] [--corpus NAME|DIR ...]

Runs after the model's codes are final, on those of the training split (missing ones are made first, and kept). Prints
mean square errors of latents in gaps of validation recordings, as shares of their variance: of a straight line, as
without these statistics, and of the prediction.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from audiovq import SpeechCodec
from audiovq.codec.concealment import Frames, LatentPredictor, bridge
from audiovq.data.codes import cached_codes
from audiovq.data.utterance import CodedUtterance
from recipes.speech.codes import options_of


def latents(codec: SpeechCodec, utterances: Sequence[CodedUtterance]) -> Iterator[np.ndarray]:
    """Latents (C, F) by the default number of codebooks."""
    for utterance in utterances:
        yield codec.codebooks.decode(np.asarray(utterance.codes[: codec.default_n_codebooks], np.int64))


def errors(found: Sequence[np.ndarray], n_frames: int, predictor: LatentPredictor | None) -> float:
    """Mean square error of gaps of ``n_frames`` between packets as long, as a share of the variance."""
    missed, n_gaps = 0.0, 0
    for whole in found:
        for start in range(0, whole.shape[1] - 3 * n_frames + 1, 3 * n_frames):
            before, gap, after = np.split(whole[:, start : start + 3 * n_frames], 3, axis=1)
            sides = [Frames(x, np.zeros(n_frames, np.int64), np.zeros(n_frames, np.float32)) for x in (before, after)]
            filled = bridge(sides[0], sides[1], n_frames, 50.0, predictor).latents
            missed, n_gaps = missed + float(np.square(filled - gap).mean()), n_gaps + 1
    return missed / n_gaps / float(np.concatenate(found, axis=1).var(axis=1).mean())


def main() -> None:
    """Fit, measure, write."""
    codec, corpora = options_of(__doc__)
    cache = cached_codes(codec, corpora)
    predictor = LatentPredictor.fit(latents(codec, cache.split("train")))
    validation = list(latents(codec, cache.split("validation")))
    for n_frames in (1, 3, 4, 6):
        line, predicted = (errors(validation, n_frames, p) for p in (None, predictor))
        print(f"{20 * n_frames} ms: straight line {line:.2f}, predicted {predicted:.2f}")
    assert codec.folder is not None
    path = predictor.save(codec.folder, codec.model_hash)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
