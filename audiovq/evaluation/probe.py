"""Probes: speaker, language and phones from the codes of held-out recordings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import librosa
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from audiovq.errors import AudioVQError
from audiovq.evaluation import plots
from audiovq.evaluation.codec import latents_of
from audiovq.evaluation.phones import CLASSES, code_order, codes_to_phones, probe_phones
from audiovq.evaluation.protocol import (
    Excerpt,
    Mean,
    Progress,
    Score,
    join_utterances,
    mean_of,
    sample_excerpts,
    silent,
    tracked,
)
from audiovq.evaluation.report import FiguresReport, make_table

if TYPE_CHECKING:
    from rich.table import Table

    from audiovq.codec.codec import SpeechCodec
    from audiovq.data.utterance import Utterance

TARGETS = ("speaker", "language")
PARTS = ("train", "validation", "test")
KINDS = ("speakers", "phones")
"""Kinds of probes: speaker and language, with the use of the codebooks; phones."""
PER_SPEAKER = 36
SECONDS = 3.0
MAIN_MINUTES = 5.0
"""Speakers with more training speech than this are probed for."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Weights of the squared norm, of which validation chooses."""
Labelled = tuple[np.ndarray, Sequence[str]]
"""Features (N, D) and N labels."""


@dataclass(frozen=True)
class Features:
    """Labels, codes (K, F) and latents (C, F) of one excerpt.

    ``quantized``, by the number of codebooks, and ``mel`` are mean and deviation over time of the quantized latents
    (2C,) and of the log mel spectrum.
    """

    speaker: str
    language: str
    codes: np.ndarray
    latents: np.ndarray
    quantized: dict[int, np.ndarray]
    mel: np.ndarray


@dataclass
class ProbeReport(FiguresReport):
    """Accuracies of probes; see `evaluate_probe` for the figures. ``arrays`` are for the plot alone."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def tables(self) -> list[Table]:
        """Accuracies of the probes, the use of the codebooks, then phones."""
        speakers = self._speakers() if "probes" in self.figures else []
        return speakers + ([self._phones()] if "phones" in self.figures else [])

    def _speakers(self) -> list[Table]:
        f = self.figures
        title = f"Linear probes, accuracy % on {f['excerpts']['test']} held-out excerpts, ± 95 % confidence"
        targets = [f"{name} (of {classes})" for name, classes in f["classes"].items()]
        rows = [["the largest class", "", *(f"{100 * f['majority'][name]:.1f}" for name in f["classes"])]]
        rows += [
            [row["representation"], row["features"], *(_percent(row[name]) for name in f["classes"])]
            for row in f["probes"]
        ]
        use = [
            [str(one["codebook"]), f"{one['entropy_bits']:.2f}", f"{one['perplexity']:.0f}", f"{100 * one['used']:.1f}"]
            for one in f["codebooks"]
        ]
        return [
            make_table(title, ["representation", "features", *targets], rows, n_left=2),
            make_table("Codebooks", ["codebook", "entropy, bits", "perplexity", "codes used %"], use),
        ]

    def _phones(self) -> Table:
        f = self.figures["phones"]
        if "left_out" in f:
            return make_table("Phones", ["left out"], [[f["left_out"]]])
        title = (
            f"Phones of {len(f['classes'])} classes, by majority of each code: accuracy % of frames in "
            f"{f['utterances']['test']} held-out utterances, ± 95 % confidence"
        )
        rows = []
        for group in f["groups"]:
            rate, largest = f"{group['frame_rate']:g}", group["largest_class"]
            base = largest["speech"]["mean"]
            first = {"representation": "the largest class", **largest}
            for size, row in [(1, first), *((group["codebook_size"], row) for row in group["rows"])]:
                times = f"{row['speech']['mean'] / base if base else 0:.1f}"
                cells = [_percent(row["speech"]), times, _percent(row["all"])]
                rows.append([row["representation"], rate, str(size), *cells])
        columns = ["representation", "Hz", "codes", "speech", "times the largest class", "with silence"]
        return make_table(title, columns, rows)

    def draw(self, path: str | Path) -> None:
        codes = None
        if self.arrays:
            counts, transitions = self.arrays["counts"], self.arrays["transitions"]
            order = code_order(counts)
            phones = codes_to_phones(counts)[order]
            codes = plots.CodePhones(CLASSES, counts[order], phones, transitions[np.ix_(order, order)])
        plots.draw_probe(self.figures, codes, path)


def _percent(mean: dict[str, Any]) -> str:
    return Mean(**mean).text(1, factor=100)


def evaluate_probe(
    codec: SpeechCodec,
    splits: Mapping[str, Sequence[Utterance]],
    per_speaker: int = PER_SPEAKER,
    about: dict[str, Any] | None = None,
    progress: Progress = silent,
    kinds: Sequence[str] = KINDS,
) -> ProbeReport:
    """Probe a codec's codes.

    Phones need the package pocketsphinx and English recordings with text; without them the report says so in their
    place, unless phones are the only kind. Probes are fitted to "train"; "validation" chooses their regularisation.

    Args:
        splits: utterances of `PARTS`.
        per_speaker: excerpts of each speaker in each split; 0 for all.
        kinds: of `KINDS`.

    Raises:
        AudioVQError: for data with fewer than two speakers of enough training speech, or for other kinds.
    """
    if not kinds or set(kinds) - set(KINDS):
        raise AudioVQError(f"the kinds of probes are {' and '.join(KINDS)}, not {', '.join(kinds) or 'nothing'}")
    protocol: dict[str, Any] = {"name": "probe", **(about or {})}
    report = ProbeReport({"protocol": protocol})
    if "speakers" in kinds:
        protocol |= {"seconds": SECONDS, "per_speaker": per_speaker}
        report.figures |= _probe_speakers(codec, splits, per_speaker, progress)
    if "phones" in kinds:
        try:
            found = probe_phones(codec, splits, progress)
            if found is None:
                raise AudioVQError("phones need English recordings with text in train and test")
            report.figures["phones"], report.arrays = found
        except AudioVQError as error:
            if "speakers" not in kinds:
                raise
            report.figures["phones"] = {"left_out": str(error)}
    return report


def _probe_speakers(
    codec: SpeechCodec, splits: Mapping[str, Sequence[Utterance]], per_speaker: int, progress: Progress
) -> dict[str, Any]:
    """Figures of the probes for speaker and language."""
    speakers = main_speakers(splits["train"])
    if len(speakers) < 2:
        raise AudioVQError("the probe needs at least two speakers with more than 5 minutes of training speech")
    items = {
        part: encode_excerpts(codec, _excerpts(splits[part], speakers, per_speaker), f"coding, {part}", progress)
        for part in PARTS
    }
    if not all(items.values()):
        raise AudioVQError("the probe needs recordings of the same speakers in train, validation and test")
    labels = {target: {part: [getattr(one, target) for one in items[part]] for part in PARTS} for target in TARGETS}
    rows: list[dict[str, Any]] = []
    for name, kind, features in tracked(representations(codec), "probing", progress):
        x = {part: np.stack([features(one) for one in items[part]]) for part in PARTS}
        means = (linear_probe(*((x[part], labels[target][part]) for part in PARTS)) for target in TARGETS)
        rows.append({"representation": name, "features": kind, **dict(zip(TARGETS, map(asdict, means), strict=True))})
    for k in range(codec.n_codebooks):
        rows.append({"representation": f"codebook {k + 1}", "features": "single codes"})
        for target in TARGETS:
            train, test = (([one.codes[k] for one in items[p]], labels[target][p]) for p in ("train", "test"))
            rows[-1][target] = asdict(code_majority(train, test, codec.codebook_size))
    return {
        "majority": {target: majority(labels[target]["train"], labels[target]["test"]) for target in TARGETS},
        "classes": {target: len(set(labels[target]["train"])) for target in TARGETS},
        "excerpts": {part: len(items[part]) for part in PARTS},
        "probes": rows,
        "codebooks": codebook_use(codec, [one for part in PARTS for one in items[part]]),
    }


def main_speakers(train: Sequence[Utterance]) -> list[str]:
    """Speakers with more than `MAIN_MINUTES` of training speech."""
    seconds: dict[str, float] = defaultdict(float)
    for utterance in train:
        seconds[utterance.speaker] += utterance.seconds
    return sorted(speaker for speaker, total in seconds.items() if total > 60 * MAIN_MINUTES)


def _excerpts(utterances: Sequence[Utterance], speakers: Sequence[str], limit: int) -> list[Excerpt]:
    """At most ``limit`` excerpts of some 3 s (0: all) of each speaker."""
    taken = []
    for speaker in speakers:
        taken += sample_excerpts(join_utterances([u for u in utterances if u.speaker == speaker], SECONDS), limit)
    return taken


@torch.inference_mode()
def encode_excerpts(
    codec: SpeechCodec, excerpts: Sequence[Excerpt], what: str = "coding", progress: Progress = silent
) -> list[Features]:
    """Encode every excerpt in one piece: without a file's packets."""
    items = []
    for excerpt in tracked(excerpts, what, progress):
        samples = excerpt.load()
        samples = samples[: len(samples) - len(samples) % codec.hop_length]
        latents = latents_of(codec, samples)[None]
        codes = codec.quantizer.encode(latents)
        quantized = {
            k: moments(codec.quantizer.decode(codes[:, :k])[0].numpy()) for k in range(1, codec.n_codebooks + 1)
        }
        mel = librosa.feature.melspectrogram(y=samples, sr=codec.sample_rate, n_fft=640, hop_length=320, n_mels=80)
        arrays = (codes[0].numpy(), latents[0].numpy(), quantized, moments(np.log(mel + 1e-6)))
        items.append(Features(excerpt.speaker, excerpt.language, *arrays))
    return items


def moments(x: np.ndarray) -> np.ndarray:
    """Mean and deviation over time: (C, F) -> (2C,)."""
    return np.concatenate([x.mean(axis=1), x.std(axis=1)])


def representations(codec: SpeechCodec) -> list[tuple[str, str, Callable[[Features], np.ndarray]]]:
    """What is probed: a name, the kind of features, and the function that makes them of an excerpt."""

    def histogram(k: int) -> Callable[[Features], np.ndarray]:
        return lambda one: np.sqrt(np.bincount(one.codes[k], minlength=codec.codebook_size) / one.codes.shape[1])

    def quantized(k: int) -> Callable[[Features], np.ndarray]:
        return lambda one: one.quantized[k]

    rows = [(f"codebook {k + 1}", "histogram", histogram(k)) for k in range(codec.n_codebooks)]
    counts = [k for k in (1, 2, 3, 4, 6, 8) if k < codec.n_codebooks] + [codec.n_codebooks]
    rows += [(f"codebooks 1-{k}" if k > 1 else "codebook 1", "moments", quantized(k)) for k in counts]
    rows.append(("latents, unquantized", "moments", lambda one: moments(one.latents)))
    rows.append(("log mel spectrum", "moments", lambda one: one.mel))
    return rows


def codebook_use(codec: SpeechCodec, items: Sequence[Features]) -> list[dict[str, Any]]:
    """For each codebook: entropy in bits, perplexity, share of codes used, counts in falling order."""
    rows = []
    for k in range(codec.n_codebooks):
        counts = np.bincount(np.concatenate([one.codes[k] for one in items]), minlength=codec.codebook_size)
        share = counts[counts > 0] / counts.sum()
        entropy = float(-(share * np.log2(share)).sum())
        about = {"codebook": k + 1, "entropy_bits": entropy, "perplexity": 2**entropy}
        rows.append({**about, "used": float((counts > 0).mean()), "counts": sorted(counts.tolist(), reverse=True)})
    return rows


def linear_probe(train: Labelled, validation: Labelled, test: Labelled) -> Mean:
    """Accuracy on ``test`` of a logistic regression fitted to ``train`` (Alain and Bengio 2017).

    The strength of its regularisation is the best on ``validation``. Every class counts alike, however many items it
    has.
    """
    x, labels = train
    mean, scale = x.mean(axis=0), x.std(axis=0) + 0.1 * x.std() + 1e-9
    parts = [(part - mean) / scale for part in (x, validation[0], test[0])]
    if len(set(labels)) == 1:
        predicted = np.full(len(test[1]), labels[0])
    else:
        settings = [{"C": 1 / (s * len(labels)), "class_weight": "balanced", "max_iter": 1000} for s in STRENGTHS]
        models = [LogisticRegression(**one).fit(parts[0], labels) for one in settings]
        best = max(models, key=lambda model: balanced_accuracy_score(validation[1], model.predict(parts[1])))
        predicted = best.predict(parts[2])
    return _mean([Score(float(a == b)) for a, b in zip(predicted, test[1], strict=True)])


def code_majority(
    train: tuple[Sequence[np.ndarray], Sequence[str]], test: tuple[Sequence[np.ndarray], Sequence[str]], size: int
) -> Mean:
    """Accuracy frame by frame when each code predicts the class that uses it most.

    Each part: codes (F,) of N excerpts below ``size``, and their labels. Classes count alike. Unlike a whole excerpt,
    a single frame hardly reveals a speaker by the words or the language.
    """
    classes = sorted(set(train[1]))
    counts = np.zeros((len(classes), size))
    for codes, label in zip(*train, strict=True):
        counts[classes.index(label)] += np.bincount(codes, minlength=size)
    predicted = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).argmax(axis=0)
    scores = []
    for codes, label in zip(*test, strict=True):
        right = (predicted[codes] == classes.index(label)).mean() if label in classes else 0.0
        scores.append(Score(float(right), len(codes)))
    return _mean(scores)


def majority(train: Sequence[str], test: Sequence[str]) -> float:
    """Share of training's largest class in the test labels: the accuracy of a constant prediction."""
    most = Counter(train).most_common(1)[0][0]
    return sum(label == most for label in test) / len(test)


def _mean(scores: Sequence[Score]) -> Mean:
    mean = mean_of(scores)
    assert mean is not None
    return mean
