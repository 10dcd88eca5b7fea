"""Distance of log-mel spectrograms."""

from __future__ import annotations

import numpy as np

from audiovq.evaluation.metrics.base import Metric
from audiovq.evaluation.pair import SAMPLE_RATE, Pair
from audiovq.evaluation.statistics import Score

N_FFT = 1024
HOP_LENGTH = 256
N_MELS = 80
FLOOR = 1e-5


def log_mel(samples: np.ndarray) -> np.ndarray:
    """(T,) at 16 kHz -> (80, frames): natural logarithm of the mel magnitude spectrogram, floored at 1e-5.

    Hann windows of 1,024 samples every 256, centred; 80 Slaney bands of unit area from 0 to 8 kHz. The floor is about
    what the rounding of 16-bit samples leaves in a band.
    """
    import librosa

    magnitudes = librosa.feature.melspectrogram(
        y=np.pad(samples, (0, max(0, N_FFT - len(samples)))),
        sr=SAMPLE_RATE,
        n_fft=N_FFT,
        hop_length=HOP_LENGTH,
        n_mels=N_MELS,
        power=1.0,
    )
    return np.log(np.maximum(magnitudes, FLOOR))


class MelDistance(Metric):
    """Mean absolute difference of `log_mel` over bands and frames, in nepers: 0 is equal, 0.115 is one decibel."""

    name, label, higher_is_better, decimals = "mel", "mel L1", False, 3

    def score(self, pair: Pair) -> Score:
        return Score(float(np.mean(np.abs(log_mel(pair.reference) - log_mel(pair.degraded)))))
