"""A prior over codes: its likelihood on held-out speech, and its samples beside real speech."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from audiovq.data.tokens import CodeRuns, CodeTape, make_tapes
from audiovq.evaluation import plots
from audiovq.evaluation.metrics import make_metrics
from audiovq.evaluation.pretrained import shared_whisper
from audiovq.evaluation.protocol import Mean, Pair, Progress, mean_of, silent, tracked
from audiovq.evaluation.report import FiguresReport, make_table
from audiovq.evaluation.sampled_speech import (
    PAUSE_EDGES,
    Trigram,
    continue_prompts,
    describe_sound,
    divergences,
    longest_copies,
    read_words,
    summarize,
    word_list,
)
from audiovq.interfaces import EncodedSpeech
from audiovq.prior.speech import condition_of

if TYPE_CHECKING:
    from rich.table import Table

    from audiovq.data.codes import CodesCache
    from audiovq.prior.speech import SpeechPrior

SAMPLES, REAL, OTHER = "samples", "real speech", "other real speech"
WORDS_SECONDS = 8.0
"""Length of the samples that Whisper reads."""
PROMPT_SECONDS, CONTINUATION_SECONDS = 3.0, 5.0
"""Lengths of prompts and of what follows them."""
RUN_SECONDS = 10.24
"""Length of the runs that the likelihood is measured on."""
_BATCH = 8
_SOUND = {
    "pause_share": "share of pauses",
    "pauses_per_second": "pauses per second",
    "pause_seconds_mean": "mean pause, s",
    "voiced_share": "voiced share of the rest",
    "f0_median": "median F0, Hz",
}
_WORDS = {
    "real_word_share": "share of real words",
    "words_per_item": "words per item",
    "log_probability_per_word": "log-probability per word, nats",
    "log_probability_per_word_shuffled": "the same, blocks of 0.3 s shuffled",
}
_CONTINUATIONS = {
    "n": "prompts",
    "speaker_cosine": "speaker cosine",
    "median_apart_semitones": "medians of pitch apart, semitones",
    "range_prompt_semitones": "pitch range of the prompt, semitones",
    "range_continuation_semitones": "pitch range of the continuation, semitones",
}


@dataclass(frozen=True)
class Settings:
    """Sampling settings.

    Attributes:
        n_samples, seconds: number and length of the samples.
        n_codebooks: None for all.
        dnsmos: whether to rate samples (needs the package speechmos).
        n_words: English samples of `WORDS_SECONDS` that Whisper reads (needs faster-whisper); 0: none.
        n_prompts: held-out excerpts that are continued (needs resemblyzer); 0: none.
    """

    n_samples: int = 24
    seconds: float = 10.0
    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    n_codebooks: int | None = None
    dnsmos: bool = True
    n_words: int = 0
    n_prompts: int = 0

    def sampling(self) -> dict[str, Any]:
        """Arguments of `SpeechPrior.generate`."""
        return {name: getattr(self, name) for name in ("temperature", "top_k", "top_p", "seed", "n_codebooks")}


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
        likelihood = []
        for name, found in self.figures["likelihood"].items():
            nats = [f"{found['nats_per_pitch']:.2f}", f"{found['nats_per_code']:.3f}"]
            by_codebook = " ".join(f"{x:.2f}" for x in found["nats_per_code_by_codebook"])
            likelihood.append([name, *nats, by_codebook, f"{found['bits_per_second']:.0f}"])
        columns = ("model", "nats/pitch", "nats/code", "by codebook", "bits/s")
        tables = [
            make_table("Likelihood of held-out codes", columns, likelihood),
            make_table("Samples beside real speech", ("", SAMPLES, REAL, OTHER), self._samples()),
        ]
        if "words" in self.figures:
            words = list(self.figures["words"].values())
            title = f"English by Whisper; {self.figures['words'][SAMPLES]['n_known']:,} words are known as real"
            counts = (f"{round(one['with_words'] * one['n'])} of {one['n']}" for one in words)
            rows = [("items with real words alone, likelier than shuffled", *counts), *_rows(_WORDS, words)]
            tables.append(make_table(title, ("", *self.figures["words"]), rows))
        if "continuations" in self.figures:
            rows = _rows(_CONTINUATIONS, [self.figures["continuations"]])
            tables.append(make_table("Continuations beside their prompts", ("", "mean"), rows))
        return tables

    def _samples(self) -> list[tuple[str, ...]]:
        f = self.figures
        rows: list[tuple[str, ...]] = []
        for kind in ("unigram", "bigram"):
            for k, which in ((0, "first"), (-1, "last")):
                drawn, other = (f["divergence"][name][kind][k] for name in (SAMPLES, OTHER))
                rows.append((f"{kind} divergence, {which} codebook, bits", f"{drawn:.3f}", "0", f"{other:.3f}"))
        rows += _rows(_SOUND, [f["sound"][name] for name in (SAMPLES, REAL, OTHER)])
        if "dnsmos" in f:
            rows.append(("DNSMOS", *(Mean(**f["dnsmos"][name]).text(2) for name in (SAMPLES, REAL)), ""))
        for key in f["copied"][SAMPLES]:
            longest = (f"{f['copied'][name][key]['longest']:.2f}" for name in (SAMPLES, REAL))
            rows.append((f"longest copy of training, {key.replace('_', ' ')}, s", *longest, ""))
        return rows


def _rows(labels: Mapping[str, str], columns: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each figure that the columns have, by its label."""
    found = {key: label for key, label in labels.items() if all(key in column for column in columns)}
    values = {label: [column[key] for column in columns] for key, label in found.items()}
    return [(label, *("–" if x is None else f"{x:.3g}" for x in row)) for label, row in values.items()]


def check_judges(settings: Settings, corpora: Sequence[Any] = ()) -> None:
    """Load all that rates samples: what is missing shows before the work begins.

    Raises:
        AudioVQError: for a package that is not installed, or without a list of words.
    """
    make_metrics(["dnsmos"] * settings.dnsmos + ["speaker"] * (settings.n_prompts > 0))
    if settings.n_words:
        word_list(corpora)
        shared_whisper()


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
        cache: codes of a corpus by the prior's codec, with the splits train, validation and ``split``, held-out speech.

    Raises:
        AudioVQError: for a missing split.
    """
    settings = settings or Settings()
    train, validation, test = (make_tapes(cache.split(name)) for name in ("train", "validation", split))
    figures: dict[str, Any] = {"likelihood": likelihoods(source, train, validation, test, progress)}
    real, other = (real_speech(source, tapes, settings, progress) for tapes in (test, validation))
    drawn = sampled_speech(source, settings, progress)
    radix = source.prior.codebook_size + 1
    named = {SAMPLES: drawn, REAL: real, OTHER: other}
    sound = {name: describe_sound(speech.waveforms) for name, speech in named.items()}
    figures |= {
        "divergence": {name: divergences(named[name].codes, real.codes, radix) for name in (SAMPLES, OTHER)},
        "sound": {name: found.to_dict() for name, found in sound.items()},
        "sound_distance": {name: sound[name].distances(sound[REAL]) for name in (SAMPLES, OTHER)},
        "copied": _copied(source, {SAMPLES: drawn, REAL: real}, train, progress),
    }
    if settings.dnsmos:
        rated = {name: rate(speech, progress) for name, speech in ((SAMPLES, drawn), (REAL, real))}
        figures["dnsmos"] = {name: asdict(mean) for name, mean in rated.items() if mean is not None}
    if settings.n_words:
        figures["words"] = words_of(source, test, settings, (about or {}).get("data", ()), progress)
    if settings.n_prompts:
        prompts = excerpts(source, test, PROMPT_SECONDS, settings.n_prompts, settings)
        more = (decoder_of(source), CONTINUATION_SECONDS, settings.sampling())
        figures["continuations"] = continue_prompts(source, prompts, *more)
    protocol = {
        "name": "generation",
        "prior": source.prior.name,
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
    items, decode = excerpts(source, tapes, settings.seconds, settings.n_samples, settings), decoder_of(source)
    waveforms = [decode(item) for item in tracked(items, "real speech", progress)]
    return Speech([item.codes[0].numpy() for item in items], waveforms)


def excerpts(
    source: SpeechPrior, tapes: Sequence[CodeTape], seconds: float, n: int, settings: Settings
) -> list[EncodedSpeech]:
    """At most ``n`` excerpts of recordings, at even distances, of one item each."""
    codec, items = source.codec, []
    n_frames = round(seconds * codec.frame_rate)
    places = [(tape, start) for tape in tapes for start in range(0, tape.n_frames - n_frames + 1, n_frames)]
    places = places or [(tape, 0) for tape in tapes]  # little speech: all of it
    chosen = np.unique(np.linspace(0, len(places) - 1, min(n, len(places))).round().astype(int))
    for tape, start in (places[i] for i in chosen):
        streams = tape.read(start, min(n_frames, tape.n_frames - start))[None]
        codes = streams[:, 1:][:, : settings.n_codebooks or codec.n_codebooks]
        utterance, length = tape.at(start), codes.shape[2] * codec.hop_length
        n_packets = -(-codes.shape[2] // codec.packet_frames)
        level = np.full((1, n_packets), round(float(utterance.levels.mean())))
        items.append(EncodedSpeech(codes, utterance.voice[None], np.array([length]), streams[:, 0], level))  # type: ignore[arg-type]
    return items


def decoder_of(source: SpeechPrior) -> Callable[[EncodedSpeech], np.ndarray]:
    """The function: one item of coded speech -> waveform (T,)."""
    return lambda item: source.codec.decode(item)[0, 0].numpy()


def sampled_speech(source: SpeechPrior, settings: Settings, progress: Progress) -> Speech:
    """Samples by random speakers."""
    about = {"progress": lambda done, total: progress("sampling", done, total), **settings.sampling()}
    encoded, decode = source.generate(settings.seconds, settings.n_samples, **about), decoder_of(source)
    items = [encoded.item(i) for i in range(len(encoded.codes))]
    return Speech(list(encoded.codes.numpy()), [decode(item) for item in tracked(items, "decoding", progress)])


def words_of(
    source: SpeechPrior, tapes: Sequence[CodeTape], settings: Settings, corpora: Sequence[Any], progress: Progress
) -> dict[str, Any]:
    """Words of English samples, and of a quarter as many English excerpts, coded and decoded."""
    known, origin = word_list(corpora)
    whisper, decode = shared_whisper(), decoder_of(source)
    drawn = source.generate(WORDS_SECONDS, settings.n_words, language="en", **settings.sampling())
    english = [tape for tape in tapes if tape.utterances[0].language == "en"]
    real = excerpts(source, english, WORDS_SECONDS, max(settings.n_words // 4, 1), settings) if english else []
    found: dict[str, Any] = {}
    for name, items in ((SAMPLES, [drawn.item(i) for i in range(len(drawn.codes))]), (REAL, real)):
        readings = [
            read_words(whisper, decode, item, known, settings.seed + i)
            for i, item in enumerate(tracked(items, f"words of {name}", progress))
        ]
        if readings:
            found[name] = {**summarize(readings), "word_list": origin, "n_known": len(known)}
    return found


def rate(speech: Speech, progress: Progress = silent) -> Mean | None:
    """DNSMOS of some speech."""
    (metric,) = make_metrics(["dnsmos"])
    scores = [metric.score(Pair("", x, x)) for x in tracked(speech.waveforms, "DNSMOS", progress)]
    return mean_of([score for score in scores if score is not None])


@torch.inference_mode()
def prior_nats(
    source: SpeechPrior, tapes: Sequence[CodeTape], conditions: bool = True, progress: Progress = silent
) -> np.ndarray:
    """Mean nats per code of each stream (S,), in runs of about 10 s, each given the frame before it."""
    prior, codec = source.prior, source.codec
    runs = CodeRuns(tapes, prior.languages, round(RUN_SECONDS * codec.frame_rate), prior.absent)
    total, count = np.zeros(prior.n_streams), np.zeros(prior.n_streams)
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
    prior = source.prior
    parts = (train, validation, test)
    seen, fitted, held_out = ([tape.streams[:1] for tape in tapes] for tapes in parts)
    pitch = Trigram(seen, fitted, prior.sizes[0]).nats(held_out)
    seen, fitted, held_out = ([tape.codes for tape in tapes] for tapes in parts)
    trigram = np.concatenate([pitch, Trigram(seen, fitted, prior.codebook_size).nats(held_out)])
    rows = {
        "prior": prior_nats(source, test, True, progress),
        "prior, without conditions": prior_nats(source, test, False, progress),
        "interpolated trigram": trigram,
        "uniform": np.log(prior.sizes),
    }
    bits_per_second = source.codec.frame_rate / math.log(2)
    return {
        name: {
            "nats_per_pitch": float(nats[0]),
            "nats_per_code": float(nats[1:].mean()),
            "nats_per_code_by_codebook": nats[1:].tolist(),
            "bits_per_second": float(nats.sum() * bits_per_second),
            "bits_per_second_by_codebooks": (np.cumsum(nats) * bits_per_second)[1:].tolist(),
        }
        for name, nats in rows.items()
    }
