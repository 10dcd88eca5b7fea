"""More voices than were recorded: the recorded ones played faster or slower, through other microphones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from audiovq.data.perturb import equaliser, reshape
from audiovq.data.utterance import SAMPLE_RATE


@dataclass(frozen=True)
class VirtualVoice:
    """A change that makes another voice of one: all its recordings have to get the same.

    Attributes:
        speed: factor of pitch, formants and tempo; 1 leaves them.
        points: equalisation in dB at places even in mel.
    """

    speed: float
    points: tuple[float, ...]

    def length(self, n_samples: int) -> int:
        """Of the recording that ``n_samples`` are made from."""
        return max(round(n_samples * self.speed), 1)

    def __call__(self, samples: np.ndarray, n_samples: int) -> np.ndarray:
        """(`length`,) or fewer samples -> (n_samples,) or as many fewer, of the same loudness."""
        import soxr

        size = np.sqrt(np.mean(np.square(samples))) if len(samples) else 0.0
        played = soxr.resample(samples, self.speed * SAMPLE_RATE, SAMPLE_RATE)[:n_samples].astype(np.float32)
        if not size or not len(played):
            return played
        out = reshape(played, 0.0, 1.0, equaliser(np.array(self.points)))
        out *= size / max(float(np.sqrt(np.mean(np.square(out)))), 1e-9)
        return out.astype(np.float32)


@dataclass(frozen=True)
class VirtualVoices:
    """Draws them. Speed makes other speakers of speakers (Ko et al. 2015 for recognition; Yamamoto et al. 2019 for
    speaker vectors), and a smooth equalisation other microphones: a decoder that has to follow both learns what the
    speaker vector says in between the few voices that were recorded.

    Attributes:
        share: of the items that get one.
        speed: up to this factor in either direction, log-uniformly.
        eq_db: size of the equalisation.
    """

    share: float = 0.5
    speed: float = 1.18
    eq_db: float = 4.0
    n_points: int = 6

    def draw(self, rng: np.random.Generator) -> VirtualVoice | None:
        """One, or None for the voice as it was recorded."""
        chosen, speed = rng.random() < self.share, float(self.speed ** rng.uniform(-1, 1))
        points = tuple(float(x) for x in rng.normal(0.0, self.eq_db, self.n_points))
        return VirtualVoice(speed, points) if chosen else None
