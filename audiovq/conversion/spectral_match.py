"""How a voice sounds on the long run: its long-term average spectrum, and a filter that gives one voice another's.

A speaker vector tells a decoder who speaks; of a voice it never met it renders the average of those that are near. What
remains between the two is mostly a matter of colour, which a linear filter can mend.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.interfaces import Packet

if TYPE_CHECKING:
    from audiovq.interfaces import DecoderStream

#: Whether converted speech gets the target's long-term average spectrum, where that is known.
Timbre = Literal["auto", "keep"]

N_BANDS = 40
LISTEN_SECONDS = 10.0
"""Of what was converted: so much is heard, and waited for, before the filter is made; more where little is speech."""
SURE_SECONDS = 2.0
"""Of speech: less tells a voice's spectrum in part only, a few words have their own."""
_PATIENCE_SECONDS, _STEP_SECONDS = 30.0, 1.0  # the opening grows so far, by so much, while it holds too little speech
DECODED_SILENCE_DB = -55.0
"""Under full scale: what a decoder makes of digital silence is under this."""
_WINDOW_SECONDS = 0.064
_MOST_FRAMES = 8000  # two minutes
_LOUD = 0.03  # of the loud frames' energy: what counts as speech
_LARGEST = 2.0  # nepers, 17 dB
_N_TAPS = 512


def check_timbre(timbre: str) -> Timbre:
    """The same, when it is one of `Timbre`.

    Raises:
        AudioVQError: when it is not.
    """
    if timbre not in ("auto", "keep"):
        raise AudioVQError(f"timbre is auto or keep, not {timbre!r}")
    return timbre  # type: ignore[return-value]


class LongTermSpectrum:
    """Collects the mean log-spectrum of speech, whatever its level: mel bands (N_BANDS,) of the frames not quiet.

    Args:
        sample_rate: of what it hears, Hz.
        floor_db: frames under this level, in dB under full scale, are no speech; None: only what is far under the rest.
    """

    def __init__(self, sample_rate: int = 16000, floor_db: float | None = None) -> None:
        self._floor = 0.0 if floor_db is None else 10 ** (floor_db / 10)
        self._rate, self._window = sample_rate, round(_WINDOW_SECONDS * sample_rate)
        self._hop = self._window // 4
        self._frames: list[np.ndarray] = []
        self._rest = np.zeros(0, np.float32)

    def add(self, samples: np.ndarray) -> None:
        """More samples (T,); after two minutes they change nothing any more."""
        if sum(map(len, self._frames)) >= _MOST_FRAMES:
            return
        data = np.concatenate([self._rest, samples])
        n = (len(data) - self._window) // self._hop + 1
        if n > 0:
            windows = np.lib.stride_tricks.sliding_window_view(data, self._window)[: n * self._hop : self._hop]
            power = np.square(np.abs(np.fft.rfft(windows * np.hanning(self._window).astype(np.float32), axis=1)))
            heard = np.mean(np.square(windows), axis=1) > self._floor
            self._frames.append((power[heard] @ _bands(self._rate, self._window).T).astype(np.float32))
            data = data[n * self._hop :]
        self._rest = data

    @property
    def seconds(self) -> float:
        """Of speech heard."""
        return len(self._speech()) * self._hop / self._rate

    def mean(self) -> np.ndarray | None:
        """(N_BANDS,) in nepers of power, with mean 0; None when no speech was heard."""
        bands = self._speech()
        if not len(bands):
            return None
        found = np.log(bands / bands.mean() + 1e-6).mean(axis=0)
        return found - found.mean()

    def _speech(self) -> np.ndarray:
        bands = np.concatenate([np.zeros((0, N_BANDS), np.float32), *self._frames])
        energy = bands.sum(axis=1)
        return bands[energy > _LOUD * np.quantile(energy, 0.95)] if len(bands) else bands


def matching_filter(
    present: np.ndarray, wanted: np.ndarray, strength: float = 1.0, sample_rate: int = 16000
) -> np.ndarray:
    """A minimum-phase filter (512,) that moves a long-term spectrum to another, or part of the way, by 17 dB at most.

    The phase is found by folding the real cepstrum (Oppenheim and Schafer 1989, section 12.1.1).
    """
    import librosa

    change = np.clip(0.5 * strength * (wanted - present), -_LARGEST, _LARGEST)
    centres = librosa.mel_frequencies(N_BANDS + 2, fmin=0, fmax=sample_rate / 2)[1:-1]
    log_gain = np.interp(np.linspace(0, sample_rate / 2, 2 * _N_TAPS + 1), centres, change)
    cepstrum = np.fft.irfft(log_gain)
    middle = len(cepstrum) // 2
    folded = np.concatenate([cepstrum[:1], 2 * cepstrum[1:middle], cepstrum[middle : middle + 1], np.zeros(middle - 1)])
    return np.fft.irfft(np.exp(np.fft.rfft(folded)))[:_N_TAPS]


class TimbreMatch:
    """Gives a stream of speech a long-term spectrum, at the loudness it has. Nothing is delayed but the opening.

    Args:
        wanted: the long-term spectrum (N_BANDS,), see `LongTermSpectrum.mean`.
        sample_rate: of the stream, Hz.
    """

    def __init__(self, wanted: np.ndarray, sample_rate: int = 16000) -> None:
        self._wanted, self._rate = wanted, sample_rate
        self._opening: list[np.ndarray] = []
        self._spectrum, self._n_heard = LongTermSpectrum(sample_rate, DECODED_SILENCE_DB), 0
        self._end = round(LISTEN_SECONDS * sample_rate)
        self._taps: np.ndarray | None = None
        self._tail = np.zeros(_N_TAPS - 1, np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The next samples (n,) -> those that are ready: none before the opening was heard."""
        if self._taps is not None:
            return self._filter(samples)
        self._opening.append(samples)
        held = sum(map(len, self._opening))
        # The opening's end lies on a grid, so that it does not depend on how the stream arrives.
        while held >= self._end:
            self._hear(self._end)
            if self._spectrum.seconds >= SURE_SECONDS or self._end >= round(_PATIENCE_SECONDS * self._rate):
                return self._begin()
            self._end += round(_STEP_SECONDS * self._rate)
        return samples[:0]

    def finish(self) -> np.ndarray:
        """What was held back."""
        if self._taps is not None:
            return np.zeros(0, np.float32)
        self._end = sum(map(len, self._opening))
        self._hear(self._end)
        return self._begin()

    def _hear(self, end: int) -> None:
        held = np.concatenate([np.zeros(0, np.float32), *self._opening])
        self._opening = [held]
        self._spectrum.add(held[self._n_heard : end])
        self._n_heard = end

    def _begin(self) -> np.ndarray:
        held, self._opening = self._opening[0], []
        present = self._spectrum.mean()
        self._taps = np.eye(1, _N_TAPS)[0]
        if present is not None:
            strength = min(self._spectrum.seconds / SURE_SECONDS, 1.0)
            self._taps = matching_filter(present, self._wanted, strength, self._rate)
            opening = held[: self._end]
            changed = self._filter(opening)
            size = min(self._rate // 50, len(opening))
            power = [np.square(x[: len(x) // size * size], dtype=np.float64) for x in (opening, changed)]
            power = [x.reshape(-1, size).sum(axis=1) for x in power]
            loud = power[0] > 0.01 * power[0].max()  # pauses do not count
            self._taps = np.sqrt(power[0][loud].sum() / max(power[1][loud].sum(), 1e-20)) * self._taps
            self._tail = np.zeros(_N_TAPS - 1, np.float32)
        return self._filter(held)

    def _filter(self, samples: np.ndarray) -> np.ndarray:
        from scipy.signal import fftconvolve

        if not len(samples):
            return samples
        data = np.concatenate([self._tail, samples])
        self._tail = data[-(_N_TAPS - 1) :]
        # In double precision, so that the lengths of blocks are not heard in the last bit.
        return fftconvolve(data.astype(np.float64), self._taps, mode="valid").astype(np.float32)


class MatchedStream:
    """A decoder whose output gets a long-term spectrum; see `DecoderStream` for what it is given and gives."""

    def __init__(self, decoder: DecoderStream, wanted: np.ndarray, sample_rate: int = 16000) -> None:
        self._decoder, self._match = decoder, TimbreMatch(wanted, sample_rate)

    def push(self, packet: Packet | None, n_frames: int | None = None) -> np.ndarray:
        """The next packet (K, F) -> samples that are ready."""
        return self._match.push(self._decoder.push(packet, n_frames))

    def finish(self, n_samples: int) -> np.ndarray:
        """The rest, so that all pieces together have exactly ``n_samples`` samples."""
        return np.concatenate([self._match.push(self._decoder.finish(n_samples)), self._match.finish()])


@lru_cache(maxsize=2)
def _bands(sample_rate: int, window: int) -> np.ndarray:
    import librosa

    bands = librosa.filters.mel(sr=sample_rate, n_fft=window, n_mels=N_BANDS, fmin=0, fmax=sample_rate / 2)
    return bands / bands.sum(axis=1, keepdims=True)
