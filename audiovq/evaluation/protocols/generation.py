"""A prior over codes: its likelihood on held-out speech, and its samples beside real speech."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import wasserstein_distance

from audiovq.data.code_stretches import CodeRuns, CodeTape, make_tapes
from audiovq.evaluation import plots
from audiovq.evaluation.metrics import make_metrics
from audiovq.evaluation.metrics.f0 import FRAME_SECONDS, track_f0
from audiovq.evaluation.protocol import SAMPLE_RATE, Pair, Progress, silent, tracked
from audiovq.evaluation.protocols.code_statistics import Trigram, divergences, longest_copies
from audiovq.evaluation.report import FiguresReport, make_table
from audiovq.evaluation.stats import Mean, mean_of
from audiovq.interfaces import EncodedSpeech
from audiovq.prior.speech import condition_of

if TYPE_CHECKING:
    from rich.table import Table

    from audiovq.data.codes import CodesCache
    from audiovq.prior.speech import SpeechPrior

SAMPLES, REAL, OTHER = "samples", "real speech", "other real speech"
RUN_SECONDS = 10.24
"""Length of the runs that the likelihood is measured on."""
SHORTEST_PAUSE = 0.1
"""Seconds; shorter quiet parts, as a stop's closure, belong to speech."""
QUIET_DB, SILENT_DB = 30.0, -65.0
"""A quiet frame is so far below a recording's loud frames (their 95th percentile), or below full scale."""
PAUSE_EDGES = np.concatenate([[0.1], np.geomspace(0.15, 3.0, 9), [np.inf]])
_BATCH = 8
_LABELS = {
    "pause_share": "share of pauses",
    "pauses_per_second": "pauses per second",
    "pause_seconds_mean": "mean pause, s",
    "voiced_share": "voiced share of the rest",
    "f0_median": "median F0, Hz",
}


@dataclass(frozen=True)
class Settings:
    """Sampling settings.

    Attributes:
        n_samples, seconds, seed: number and length of the samples.
        temperature, top_k, top_p: of the distribution of each code.
        n_codebooks: None for all.
        dnsmos: whether to rate samples (needs the package speechmos).
    """

    n_samples: int = 24
    seconds: float = 10.0
    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    n_codebooks: int | None = None
    dnsmos: bool = True


@dataclass(frozen=True)
class Speech:
    """Codes (K, F) and waveforms (T,) of some excerpts."""

    codes: list[np.ndarray]
    waveforms: list[np.ndarray]


@dataclass
class GenerationReport(FiguresReport):
    """Figures of a prior and its samples; see `evaluate_generation`."""

    def draw(self, path: str | Path) -> None:
        plots.draw_generation(self.figures, [f"{low:.2g}" for low in PAUSE_EDGES[:-1]], path)

    def tables(self) -> list[Table]:
        likelihood = [
            (
                name,
                f"{found['nats_per_code']:.3f}",
                " ".join(f"{x:.2f}" for x in found["nats_per_code_by_codebook"]),
                f"{found['bits_per_second']:.0f}",
            )
            for name, found in self.figures["likelihood"].items()
        ]
        columns = ("model", "nats/code", "by codebook", "bits/s")
        return [
            make_table("Likelihood of held-out codes", columns, likelihood),
            make_table("Samples beside real speech", ("", SAMPLES, REAL, OTHER), self._samples()),
        ]

    def _samples(self) -> list[tuple[str, ...]]:
        f = self.figures
        rows: list[tuple[str, ...]] = []
        for kind in ("unigram", "bigram"):
            for k, which in ((0, "first"), (-1, "last")):
                drawn, other = (f["divergence"][name][kind][k] for name in (SAMPLES, OTHER))
                rows.append((f"{kind} divergence, {which} codebook, bits", f"{drawn:.3f}", "0", f"{other:.3f}"))
        for key, label in _LABELS.items():
            values = [f["sound"][name][key] for name in (SAMPLES, REAL, OTHER)]
            rows.append((label, *("–" if value is None else f"{value:.3g}" for value in values)))
        if "dnsmos" in f:
            rows.append(("DNSMOS", *(Mean(**f["dnsmos"][name]).text(2) for name in (SAMPLES, REAL)), ""))
        for key in f["copied"][SAMPLES]:
            longest = (f"{f['copied'][name][key]['longest']:.2f}" for name in (SAMPLES, REAL))
            rows.append((f"longest copy of training, {key.replace('_', ' ')}, s", *longest, ""))
        return rows


def evaluate_generation(
    source: SpeechPrior,
    cache: CodesCache,
    split: str = "test",
    settings: Settings | None = None,
    about: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> GenerationReport:
    """All figures of a prior.

    Args:
        source: codec, prior and speaker distribution.
        cache: codes of a corpus by this codec, with the splits train, validation and ``split``.
        split: held-out speech.
        settings: of the samples.
        about: more for the report's protocol.
        progress: called with the progress.

    Raises:
        AudioVQError: for a missing split.
    """
    settings = settings or Settings()
    train, validation, test = (make_tapes(cache.split(name)) for name in ("train", "validation", split))
    likelihood = likelihoods(source, train, validation, test, progress)
    real, other = (real_speech(source, tapes, settings, progress) for tapes in (test, validation))
    drawn = sampled_speech(source, settings, progress)
    radix = source.prior.codebook_size + 1
    named = {SAMPLES: drawn, REAL: real, OTHER: other}
    sound = {name: describe_sound(speech.waveforms) for name, speech in named.items()}
    figures: dict[str, Any] = {
        "likelihood": likelihood,
        "divergence": {
            SAMPLES: divergences(drawn.codes, real.codes, radix),
            OTHER: divergences(other.codes, real.codes, radix),
        },
        "sound": {name: found.to_dict() for name, found in sound.items()},
        "sound_distance": {name: sound[name].distances(sound[REAL]) for name in (SAMPLES, OTHER)},
        "copied": _copied(source, {SAMPLES: drawn, REAL: real}, train, progress),
    }
    if settings.dnsmos:
        rated = {name: rate(speech, progress) for name, speech in ((SAMPLES, drawn), (REAL, real))}
        figures["dnsmos"] = {name: asdict(mean) for name, mean in rated.items() if mean is not None}
    protocol = {
        "name": "generation",
        "split": split,
        **vars(settings),
        "n_codebooks": settings.n_codebooks or source.prior.n_codebooks,
        "n_real": len(real.codes),
        REAL: f"a speaker's recordings of the split {split} end to end, coded and decoded",
        OTHER: "the same of the split validation: the difference of two sets of real speech",
        "divergence": "Jensen-Shannon, bits, codes against those of real speech, by codebook",
        **(about or {}),
    }
    return GenerationReport({"protocol": protocol, **figures})


def _copied(
    source: SpeechPrior, speech: dict[str, Speech], train: Sequence[CodeTape], progress: Progress
) -> dict[str, Any]:
    """Seconds of the longest run that also occurs in the training codes, exactly."""
    codes, radix = [tape.codes for tape in train], source.prior.codebook_size + 1
    found: dict[str, Any] = {name: {} for name in speech}
    for n, key in ((1, "codebook_1"), (2, "codebooks_1_to_2")):
        progress("copies of training", n - 1, 2)
        for name, one in speech.items():
            if n <= one.codes[0].shape[0]:
                seconds = np.array(longest_copies(one.codes, codes, n, radix)) / source.codec.frame_rate
                found[name][key] = {"longest": float(seconds.max()), "median": float(np.median(seconds))}
    return found


def real_speech(source: SpeechPrior, tapes: Sequence[CodeTape], settings: Settings, progress: Progress) -> Speech:
    """Recordings, coded with as many codebooks and decoded."""
    codec, speech = source.codec, Speech([], [])
    n_frames = round(settings.seconds * codec.frame_rate)
    places = [(tape, start) for tape in tapes for start in range(0, tape.n_frames - n_frames + 1, n_frames)]
    places = places or [(tape, 0) for tape in tapes]  # little speech: all of it
    chosen = np.unique(np.linspace(0, len(places) - 1, min(settings.n_samples, len(places))).round().astype(int))
    for tape, start in tracked([places[i] for i in chosen], "real speech", progress):
        codes = tape.read(start, min(n_frames, tape.n_frames - start))[: settings.n_codebooks or codec.n_codebooks]
        speaker = torch.from_numpy(tape.at(start).voice)[None]
        length = torch.tensor([codes.shape[1] * codec.hop_length])
        speech.codes.append(codes)
        speech.waveforms.append(
            codec.decode(EncodedSpeech(torch.from_numpy(codes)[None], speaker, length))[0, 0].numpy()
        )
    return speech


def sampled_speech(source: SpeechPrior, settings: Settings, progress: Progress) -> Speech:
    """Samples by random speakers."""
    encoded = source.generate(
        settings.seconds,
        settings.n_samples,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=settings.seed,
        n_codebooks=settings.n_codebooks,
        progress=lambda done, total: progress("sampling", done, total),
    )
    waveforms = []
    for i in tracked(range(settings.n_samples), "decoding", progress):
        parts: dict[str, Any] = {name: None if x is None else x[i : i + 1] for name, x in vars(encoded).items()}
        waveforms.append(source.codec.decode(EncodedSpeech(**parts))[0, 0].numpy())
    return Speech(list(encoded.codes.numpy()), waveforms)


def rate(speech: Speech, progress: Progress = silent) -> Mean | None:
    """DNSMOS of some speech."""
    (metric,) = make_metrics(["dnsmos"])
    scores = [metric.score(Pair("", x, x)) for x in tracked(speech.waveforms, "DNSMOS", progress)]
    return mean_of([score for score in scores if score is not None])


@torch.inference_mode()
def prior_nats(
    source: SpeechPrior, tapes: Sequence[CodeTape], conditions: bool = True, progress: Progress = silent
) -> np.ndarray:
    """Mean nats per code of each codebook (K,), in runs of about 10 s, each given the frame before it."""
    prior, codec = source.prior, source.codec
    runs = CodeRuns(tapes, prior.conditioner.languages, round(RUN_SECONDS * codec.frame_rate), prior.absent)
    total, count = np.zeros(prior.n_codebooks), np.zeros(prior.n_codebooks)
    for start in range(0, len(runs), _BATCH):
        progress("likelihood", start, len(runs))
        items = [runs[i] for i in range(start, min(start + _BATCH, len(runs)))]
        batch = {name: torch.stack([torch.as_tensor(item[name]) for item in items]) for name in items[0]}
        nats = prior.nll(batch["codes"], condition_of(codec, batch) if conditions else None, batch["before"])
        total += nats.double().sum((0, 2)).numpy()
        count += (batch["codes"] != prior.absent).sum((0, 2)).numpy()
    return total / count


def likelihoods(
    source: SpeechPrior,
    train: Sequence[CodeTape],
    validation: Sequence[CodeTape],
    test: Sequence[CodeTape],
    progress: Progress = silent,
) -> dict[str, dict[str, Any]]:
    """Nats per code and bits per second: the prior with and without its conditions, a trigram, the uniform prior."""
    k, size = source.prior.n_codebooks, source.prior.codebook_size
    trigram = Trigram([t.codes for t in train], [t.codes for t in validation], size)
    rows = {
        "prior": prior_nats(source, test, True, progress),
        "prior, without conditions": prior_nats(source, test, False, progress),
        "interpolated trigram": trigram.nats([t.codes for t in test]),
        "uniform": np.full(k, math.log(size)),
    }
    bits_per_second = source.codec.frame_rate / math.log(2)
    return {
        name: {
            "nats_per_code": float(nats.mean()),
            "nats_per_code_by_codebook": nats.tolist(),
            "bits_per_second": float(nats.sum() * bits_per_second),
            "bits_per_second_by_codebooks": (np.cumsum(nats) * bits_per_second).tolist(),
        }
        for name, nats in rows.items()
    }


@dataclass(frozen=True)
class Sound:
    """Pauses, voicing and F0 of a set of waveforms.

    Attributes:
        pause_share: of the time.
        pauses_per_second: number of pauses in a second.
        pause_seconds: length of each pause.
        voiced_share: of the frames outside pauses.
        f0: median F0 in Hz of each waveform with voiced frames.
    """

    pause_share: float
    pauses_per_second: float
    pause_seconds: list[float]
    voiced_share: float
    f0: list[float]

    def to_dict(self) -> dict[str, Any]:
        return {
            "pause_share": self.pause_share,
            "pauses_per_second": self.pauses_per_second,
            "voiced_share": self.voiced_share,
            "pause_seconds_mean": float(np.mean(self.pause_seconds)) if self.pause_seconds else None,
            "f0_median": float(np.median(self.f0)) if self.f0 else None,
            "pause_histogram": self.histogram(),
        }

    def histogram(self) -> list[float]:
        """Shares of pauses by length, between `PAUSE_EDGES`."""
        counts, _ = np.histogram(self.pause_seconds, PAUSE_EDGES)
        return (counts / max(counts.sum(), 1)).tolist()

    def distances(self, other: Sound) -> dict[str, float | None]:
        """To another set."""
        return {
            "pause_seconds": distance(self.pause_seconds, other.pause_seconds),
            "f0_hz": distance(self.f0, other.f0),
            "pause_share": abs(self.pause_share - other.pause_share),
            "voiced_share": abs(self.voiced_share - other.voiced_share),
        }


def describe_sound(waveforms: Sequence[np.ndarray]) -> Sound:
    """Measure waveforms (T,) at 16 kHz."""
    lengths: list[float] = []
    medians = []
    n_frames = n_quiet = n_voiced = n_active = 0
    for samples in waveforms:
        quiet, track = pauses(samples), track_f0(samples)
        lengths += [(stop - start) * FRAME_SECONDS for start, stop in runs_of(quiet)]
        n_frames, n_quiet = n_frames + len(quiet), n_quiet + int(quiet.sum())
        n_voiced, n_active = n_voiced + int((track[~quiet] > 0).sum()), n_active + int((~quiet).sum())
        if (track > 0).any():
            medians.append(float(np.median(track[track > 0])))
    return Sound(
        pause_share=n_quiet / max(n_frames, 1),
        pauses_per_second=len(lengths) / (FRAME_SECONDS * max(n_frames, 1)),
        pause_seconds=lengths,
        voiced_share=n_voiced / max(n_active, 1),
        f0=medians,
    )


def pauses(samples: np.ndarray) -> np.ndarray:
    """Frames of 10 ms that belong to a pause of 0.1 s or more: (T,) -> (ceil(T / 160),) bool."""
    size = round(FRAME_SECONDS * SAMPLE_RATE)
    frames = np.pad(samples.astype(np.float64), (0, -len(samples) % size)).reshape(-1, size)
    level = 10 * np.log10(np.square(frames).mean(1) + 1e-12)
    quiet = level < max(np.percentile(level, 95) - QUIET_DB, SILENT_DB)
    for start, stop in runs_of(quiet):
        if stop - start < round(SHORTEST_PAUSE / FRAME_SECONDS):
            quiet[start:stop] = False
    return quiet


def runs_of(mask: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of each run of true values."""
    steps = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    return list(zip(np.nonzero(steps == 1)[0].tolist(), np.nonzero(steps == -1)[0].tolist(), strict=True))


def distance(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Earth mover's distance of two sets of numbers, in their unit; None where one is empty."""
    return float(wasserstein_distance(first, second)) if len(first) and len(second) else None
