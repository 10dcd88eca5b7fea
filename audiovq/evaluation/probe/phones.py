"""Codes as phonemes (van den Oord et al. 2017, section 4.2): each code says the phone it most often goes with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.evaluation.probe.alignment import CLASSES, SILENCE, UNKNOWN, align, labels_at
from audiovq.evaluation.progress import Progress, silent
from audiovq.evaluation.statistics import Mean, Score, mean_of

if TYPE_CHECKING:
    from torch import nn

    from audiovq.data.utterance import Utterance
    from audiovq.speech.codec import SpeechCodec

PAPER_HOP, PAPER_SIZE = 640, 128
"""The paper's set-up: 25 latents a second, one book of 128."""
ITERATIONS = 20
SILENT = CLASSES.index(SILENCE)
Sequences = dict[str, list[np.ndarray]]
"""By split, one array for each utterance."""


@dataclass(frozen=True)
class Spoken:
    """What is probed, by split: samples (T,) of each utterance, T a multiple of both hops, and their segments."""

    samples: Sequences
    segments: dict[str, list[Any]]
    skipped: dict[str, int]

    def labels(self, hop_length: int) -> Sequences:
        """Classes (T / hop_length,) of each utterance."""
        return {
            part: [
                labels_at(segments, len(x) // hop_length, hop_length)
                for x, segments in zip(self.samples[part], self.segments[part], strict=True)
            ]
            for part in self.samples
        }


def phone_counts(codes: Sequence[np.ndarray], labels: Sequence[np.ndarray], size: int) -> np.ndarray:
    """How often each code goes with each class: (size, len(CLASSES)); frames labelled `UNKNOWN` do not count."""
    counts = np.zeros((size, len(CLASSES)), dtype=np.int64)
    for code, label in zip(codes, labels, strict=True):
        known = label != UNKNOWN
        np.add.at(counts, (code[known], label[known]), 1)
    return counts


def says(counts: np.ndarray) -> np.ndarray:
    """The class each code stands for, (size,); codes never met in training say the largest class."""
    return np.where(counts.sum(axis=1) > 0, counts.argmax(axis=1), counts.sum(axis=0).argmax())


def phone_accuracy(codes: Sequences, labels: Sequences, size: int) -> Mean:
    """Frames of "test" whose code's phone, by majority in "train", is theirs."""
    mapping = says(phone_counts(codes["train"], labels["train"], size))
    return score(lambda code: mapping[code], codes["test"], labels["test"])


def joint_accuracy(first: Sequences, second: Sequences, labels: Sequences, size: int) -> Mean:
    """As `phone_accuracy` for pairs of codes; pairs never met in training say what the first code does."""
    alone = says(phone_counts(first["train"], labels["train"], size))
    pairs = {part: [a * size + b for a, b in zip(first[part], second[part], strict=True)] for part in first}
    met, places = np.unique(np.concatenate(pairs["train"]), return_inverse=True)
    counts = phone_counts([places.reshape(-1)], [np.concatenate(labels["train"])], len(met))
    known = counts.sum(axis=1) > 0
    met, mapping = met[known], counts[known].argmax(axis=1)

    def say(pair: np.ndarray) -> np.ndarray:
        at = np.minimum(np.searchsorted(met, pair), len(met) - 1)
        return np.where(met[at] == pair, mapping[at], alone[pair // size])

    return score(say, pairs["test"], labels["test"])


def score(say: Callable[[np.ndarray], np.ndarray], codes: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Mean:
    """Share of the labelled frames that are said right, over the utterances."""
    scores = []
    for code, label in zip(codes, labels, strict=True):
        known = label != UNKNOWN
        if known.any():
            scores.append(Score(float((say(code) == label)[known].mean()), int(known.sum())))
    return mean_of(scores) or Mean(0.0, None, 0)


def without_silence(labels: Sequences) -> Sequences:
    return {part: [np.where(x == SILENT, UNKNOWN, x) for x in found] for part, found in labels.items()}


def largest_class(labels: Sequences) -> Mean:
    """What saying always the largest class of "train" reaches on "test"."""
    return phone_accuracy({part: [np.zeros_like(x) for x in found] for part, found in labels.items()}, labels, 1)


def spoken(splits: Mapping[str, Sequence[Utterance]], hop_length: int, progress: Progress = silent) -> Spoken:
    """The English recordings with text of "train" and "test" that align with it."""
    parts = {part: [u for u in splits[part] if u.language == "en" and u.text] for part in ("train", "test")}
    aligned = align([u for part in parts.values() for u in part], progress)
    grid = int(np.lcm(hop_length, PAPER_HOP))
    samples: Sequences = {}
    segments: dict[str, list[Any]] = {}
    for part, utterances in parts.items():
        taken = [u for u in utterances if u.id in aligned.segments and u.n_samples >= grid]
        samples[part] = [x[: len(x) - len(x) % grid] for x in (u.load() for u in taken)]
        segments[part] = [aligned.segments[u.id] for u in taken]
    return Spoken(samples, segments, aligned.skipped)


def probe_phones(
    codec: SpeechCodec, splits: Mapping[str, Sequence[Utterance]], progress: Progress = silent
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Phones read from single codes, beside k-means on other features with as many clusters on the same frames.

    Returns:
        Figures for the report; and for the picture, of the first book: ``counts`` (codes, classes) and ``transitions``
        (codes, codes), how often one code follows another. None without aligned recordings in both splits.

    Raises:
        AudioVQError: when pocketsphinx is not installed.
    """
    heard = spoken(splits, codec.hop_length, progress)
    if not all(heard.samples.values()):
        return None
    latents = encoded(codec.encoder, heard, progress, "coding for phones")
    untrained = encoded(untrained_encoder(codec), heard, progress, "coding, untrained")
    progress("k-means", 0, 1)
    books = [booked(codec, latents, k) for k in range(min(2, codec.n_codebooks))]
    groups = [group(codec, heard, codec.hop_length, codec.codebook_size, latents, untrained, books)]
    if (codec.hop_length, codec.codebook_size) != (PAPER_HOP, PAPER_SIZE) and PAPER_HOP % codec.hop_length == 0:
        groups.append(group(codec, heard, PAPER_HOP, PAPER_SIZE, latents, untrained, []))
    labels = heard.labels(codec.hop_length)
    counts = phone_counts(books[0]["train"], labels["train"], codec.codebook_size)
    figures = {
        "classes": list(CLASSES),
        "utterances": {part: len(found) for part, found in heard.samples.items()},
        "skipped": heard.skipped,
        "groups": groups,
        "codes": [
            {"code": code, "phone": CLASSES[phone], "share": float(counts[code, phone] / counts[code].sum())}
            for code, phone in enumerate(says(counts))
            if counts[code].sum()
        ],
    }
    return figures, {"counts": counts, "transitions": transitions(books[0]["train"], codec.codebook_size)}


def group(
    codec: SpeechCodec,
    heard: Spoken,
    hop_length: int,
    size: int,
    latents: Sequences,
    untrained: Sequences,
    books: Sequence[Sequences],
) -> dict[str, Any]:
    """Rows of one frame rate and codebook size: the books, if the model has such, and k-means on features."""
    everything = heard.labels(hop_length)
    speech = without_silence(everything)
    per_frame = hop_length // codec.hop_length
    rows: list[dict[str, Any]] = []

    def add(name: str, measure: Callable[[Sequences], Mean]) -> None:
        rows.append({"representation": name, "speech": asdict(measure(speech)), "all": asdict(measure(everything))})

    for number, book in enumerate(books, 1):
        add(f"book {number}", lambda labels, book=book: phone_accuracy(book, labels, size))  # type: ignore[misc]
    if len(books) == 2:
        add("books 1 and 2 jointly", lambda labels: joint_accuracy(books[0], books[1], labels, size))
    for name, features in (
        ("k-means on the model's latents", pooled(latents, per_frame)),
        ("k-means on an untrained encoder's latents", pooled(untrained, per_frame)),
        ("k-means on MFCCs", mfccs(heard.samples, hop_length)),
    ):
        codes = clustered(features, size)
        add(name, lambda labels, codes=codes: phone_accuracy(codes, labels, size))  # type: ignore[misc]
    return {
        "frame_rate": codec.sample_rate / hop_length,
        "codebook_size": size,
        "frames": {
            kind: {part: int(sum((x != UNKNOWN).sum() for x in found)) for part, found in labels.items()}
            for kind, labels in (("speech", speech), ("all", everything))
        },
        "largest_class": {"speech": asdict(largest_class(speech)), "all": asdict(largest_class(everything))},
        "rows": rows,
    }


def encoded(encoder: nn.Module, heard: Spoken, progress: Progress, what: str) -> Sequences:
    """Latents (F, C) of each utterance."""
    import torch

    total, done = sum(map(len, heard.samples.values())), 0
    found: Sequences = {}
    with torch.inference_mode():
        for part, recordings in heard.samples.items():
            found[part] = []
            for samples in recordings:
                progress(what, done, total)
                found[part].append(encoder(torch.from_numpy(samples)[None, None])[0].t().contiguous().numpy())
                done += 1
    return found


def untrained_encoder(codec: SpeechCodec) -> nn.Module:
    """The codec's encoder as it was before it learned anything."""
    import torch

    from audiovq.speech.encoder import SpeechEncoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SpeechEncoder(**codec.config["encoder"]).eval()


def booked(codec: SpeechCodec, latents: Sequences, k: int) -> Sequences:
    """Codes (F,) of book ``k``."""
    import torch

    with torch.inference_mode():
        return {
            part: [codec.quantizer.encode(torch.from_numpy(x).t()[None], k + 1)[0, k].numpy() for x in found]
            for part, found in latents.items()
        }


def pooled(latents: Sequences, n: int) -> Sequences:
    """Means of ``n`` frames each: (F, C) -> (F / n, C)."""
    return {part: [x.reshape(-1, n, x.shape[1]).mean(axis=1) for x in found] for part, found in latents.items()}


def mfccs(samples: Sequences, hop_length: int) -> Sequences:
    """13 MFCCs with first and second differences in the middle of each frame, scaled alike on "train": (F, 39)."""
    import librosa

    def of(x: np.ndarray) -> np.ndarray:
        plain = librosa.feature.mfcc(y=x, sr=16000, n_mfcc=13, n_fft=400, hop_length=160, n_mels=40)
        changes = [librosa.feature.delta(plain, order=order, mode="nearest", width=9) for order in (1, 2)]
        middles = np.rint((np.arange(len(x) // hop_length) + 0.5) * hop_length / 160).astype(np.int64)
        return np.concatenate([plain, *changes])[:, middles].T.astype(np.float32)

    found = {part: [of(x) for x in recordings] for part, recordings in samples.items()}
    train = np.concatenate(found["train"])
    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-6
    return {part: [(x - mean) / scale for x in features] for part, features in found.items()}


def clustered(features: Sequences, size: int) -> Sequences:
    """Nearest of ``size`` centres found by k-means on "train", (F,) for each utterance."""
    import torch

    from audiovq.quantize.codebook import kmeans
    from audiovq.quantize.functional import nearest

    vectors = torch.from_numpy(np.concatenate(features["train"]))
    centres, _ = kmeans(vectors, size, ITERATIONS, torch.Generator().manual_seed(0))
    return {
        part: [nearest(torch.from_numpy(np.ascontiguousarray(x.T))[None], centres)[0].numpy() for x in found]
        for part, found in features.items()
    }


def transitions(codes: Sequence[np.ndarray], size: int) -> np.ndarray:
    """How often the column's code follows the row's, (size, size)."""
    counts = np.zeros((size, size), dtype=np.int64)
    for code in codes:
        np.add.at(counts, (code[:-1], code[1:]), 1)
    return counts
