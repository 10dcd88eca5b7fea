"""The evaluation of a prior: likelihood on held-out speech, then samples beside real speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from audiovq.data.code_stretches import CodeTape, make_tapes
from audiovq.data.codes import CodesCache
from audiovq.evaluation.generation.codes import divergences, longest_copy
from audiovq.evaluation.generation.likelihood import likelihoods
from audiovq.evaluation.generation.report import GenerationReport
from audiovq.evaluation.generation.sound import Sound, describe_sound, distance
from audiovq.evaluation.metrics import make_metrics
from audiovq.evaluation.pair import Pair
from audiovq.evaluation.progress import Progress, silent
from audiovq.evaluation.statistics import mean_of
from audiovq.prior.speech import SpeechPrior
from audiovq.speech.codec import EncodedSpeech


@dataclass(frozen=True)
class Settings:
    """Which samples are drawn.

    Attributes:
        n_samples, seconds, seed: how many, how long, and from which seed.
        temperature, top_k, top_p: how.
        n_codebooks: books; None for all.
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
    """Codes (K, F) of some stretches, and their sound."""

    codes: list[np.ndarray]
    waveforms: list[np.ndarray]


def cut(tapes: Sequence[CodeTape], n: int, n_frames: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """At most ``n`` stretches of tapes, drawn evenly, with a speaker vector each: ((K, F), (S,))."""
    places = [(tape, start) for tape in tapes for start in range(0, tape.n_frames - n_frames + 1, n_frames)]
    if not places:  # little speech: whole tapes
        places = [(tape, 0) for tape in tapes]
    chosen = np.unique(np.linspace(0, len(places) - 1, min(n, len(places))).round().astype(int))
    found = []
    for tape, start in (places[i] for i in chosen):
        found.append((tape.read(start, min(n_frames, tape.n_frames - start)), tape.at(start).voice))
    return found


def real_speech(source: SpeechPrior, tapes: Sequence[CodeTape], settings: Settings, progress: Progress) -> Speech:
    """Stretches of recordings, coded with as many books and decoded again."""
    codec = source.codec
    n_frames = round(settings.seconds * codec.frame_rate)
    books = settings.n_codebooks or codec.n_codebooks
    speech = Speech([], [])
    for codes, voice in cut(tapes, settings.n_samples, n_frames):
        progress("real speech", len(speech.codes), settings.n_samples)
        length = torch.tensor([codes.shape[1] * codec.hop_length])
        one = EncodedSpeech(torch.from_numpy(codes[None, :books]), torch.from_numpy(voice)[None], length)
        speech.codes.append(codes[:books])
        speech.waveforms.append(codec.decode(one)[0, 0].numpy())
    return speech


def drawn_speech(source: SpeechPrior, settings: Settings, progress: Progress) -> Speech:
    """Samples in random voices."""
    encoded = source.generate(
        settings.seconds,
        settings.n_samples,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=settings.seed,
        n_codebooks=settings.n_codebooks,
        progress=lambda done, total: progress("drawing", done, total),
    )
    waveforms = []
    for i in range(settings.n_samples):
        progress("decoding", i, settings.n_samples)
        parts = (encoded.codes[i : i + 1], encoded.speaker[i : i + 1], encoded.n_samples[i : i + 1])
        waveforms.append(source.codec.decode(EncodedSpeech(*parts))[0, 0].numpy())
    return Speech(list(encoded.codes.numpy()), waveforms)


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
        source: codec, prior and voices.
        cache: codes of a corpus by this codec, with the splits train, validation and ``split``.
        split: held-out speech.
        settings: of the samples.
        about: more for the report's protocol.
        progress: told how far it is.

    Raises:
        AudioVQError: for a split that is not there.
    """
    settings = settings or Settings()
    train, validation, test = (make_tapes(cache.split(name)) for name in ("train", "validation", split))
    rows = likelihoods(source, train, validation, test, progress)
    real, other = (real_speech(source, tapes, settings, progress) for tapes in (test, validation))
    drawn = drawn_speech(source, settings, progress)
    radix = source.prior.codebook_size + 1
    sound = {name: describe_sound(speech.waveforms) for name, speech in _named(drawn, real, other)}
    figures: dict[str, Any] = {
        "likelihood": {row.name: row.to_dict() for row in rows},
        "divergence": {
            "samples": divergences(drawn.codes, real.codes, radix),
            "other real speech": divergences(other.codes, real.codes, radix),
        },
        "sound": {name: found.to_dict() for name, found in sound.items()},
        "sound_distance": {
            name: _distances(sound[name], sound["real speech"]) for name in ("samples", "other real speech")
        },
        "copied": _copied(source, drawn, real, train, radix, progress),
    }
    if settings.dnsmos:
        figures["dnsmos"] = {name: rate(speech, progress) for name, speech in _named(drawn, real, other)[:2]}
    protocol = {
        "name": "generation",
        "split": split,
        **vars(settings),
        "n_codebooks": settings.n_codebooks or source.prior.n_codebooks,
        "n_real": len(real.codes),
        "real speech": f"a speaker's recordings of the split {split} end to end, coded and decoded",
        "other real speech": "the same of the split validation: what two draws of real speech differ by",
        "divergence": "Jensen-Shannon, bits, codes of samples against real speech, book by book",
        **(about or {}),
    }
    return GenerationReport(protocol, [], figures=figures)


def _named(drawn: Speech, real: Speech, other: Speech) -> list[tuple[str, Speech]]:
    return [("samples", drawn), ("real speech", real), ("other real speech", other)]


def _distances(first: Sound, second: Sound) -> dict[str, float | None]:
    return {
        "pause_seconds": distance(first.pause_seconds, second.pause_seconds),
        "register_hz": distance(first.register, second.register),
        "pause_share": abs(first.pause_share - second.pause_share),
        "voiced_share": abs(first.voiced_share - second.voiced_share),
    }


def _copied(
    source: SpeechPrior, drawn: Speech, real: Speech, train: Sequence[CodeTape], radix: int, progress: Progress
) -> dict[str, Any]:
    """Seconds of the longest stretch that also occurs in the training codes, exactly."""
    codes = [tape.codes for tape in train]
    found: dict[str, Any] = {}
    for books in (1, 2):
        if books > drawn.codes[0].shape[0]:
            continue
        progress("copied stretches", books - 1, 2)
        for name, speech in (("samples", drawn), ("real speech", real)):
            seconds = np.array(longest_copy(speech.codes, codes, books, radix)) / source.codec.frame_rate
            what = f"books_1_to_{books}" if books > 1 else "book_1"
            found.setdefault(name, {})[what] = {"longest": float(seconds.max()), "median": float(np.median(seconds))}
    return found


def rate(speech: Speech, progress: Progress = silent) -> dict[str, float | int | None]:
    """DNSMOS of some speech: ``mean``, ``ci95`` and ``n``."""
    (metric,) = make_metrics(["dnsmos"])
    scores = []
    for i, samples in enumerate(speech.waveforms):
        progress("DNSMOS", i, len(speech.waveforms))
        score = metric.score(Pair(str(i), samples, samples))
        if score is not None:
            scores.append(score)
    mean = mean_of(scores)
    assert mean is not None
    return {"mean": mean.mean, "ci95": mean.ci95, "n": mean.n}
