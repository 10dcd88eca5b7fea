"""Codes as phones (van den Oord et al. 2017, section 4.2): each code predicts the phone it most often goes with."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import librosa
import numpy as np
import torch
from sklearn.cluster import KMeans

from audiovq.errors import need
from audiovq.evaluation.codec import latents_of
from audiovq.evaluation.protocol import Mean, Progress, Score, ScoreCache, mean_of, silent, tracked
from audiovq.io import cache_dir

if TYPE_CHECKING:
    from torch import nn

    from audiovq.codec.codec import SpeechCodec
    from audiovq.data.utterance import Utterance

SILENCE = "SIL"
PHONES = (
    *("IY", "IH", "EY", "EH", "AE", "AA", "AO", "AH", "OW", "UH", "UW", "ER", "AY", "AW", "OY"),
    *("Y", "W", "R", "L", "M", "N", "NG"),
    *("V", "DH", "Z", "ZH", "F", "TH", "S", "SH", "HH", "CH", "JH"),
    *("B", "D", "G", "P", "T", "K"),
)
"""The 39 phones of the CMU dictionary: vowels, sonorants, fricatives and affricates, stops."""
CLASSES = (*PHONES, SILENCE)
UNKNOWN = -1
"""Label of frames outside the alignment."""
FRAME_SECONDS = 0.01
WINDOW_SECONDS = 0.025625
"""Hop and window of the aligner."""
PAPER_HOP, PAPER_SIZE = 640, 128
"""The paper's set-up: 25 latents a second, one codebook of 128."""
ITERATIONS = 20
Sequences = dict[str, list[np.ndarray]]
"""By split, one array for each utterance."""
Segment = tuple[str, int, int]
"""A class, its first frame of 10 ms, and the frame after its last."""


def dictionary_words(text: str) -> list[str]:
    """The words as the dictionary writes them; digits stay, and are in no dictionary."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)*", text.lower().replace("’", "'"))


def segments_of(phones: Iterable[tuple[str, int, int]]) -> list[Segment]:
    """(name, start, duration) in frames -> segments; fillers, such as noise and breath, count as silence."""
    return [
        (name if name in PHONES else SILENCE, start, start + duration)
        for name, start, duration in phones
        if duration > 0
    ]


def labels_at(segments: Sequence[Segment], n_frames: int, hop_length: int, sample_rate: int = 16000) -> np.ndarray:
    """The class in the middle of each frame of ``hop_length`` samples: (n_frames,) indices of `CLASSES`.

    Frames outside all segments are `UNKNOWN`.
    """
    end = max((segment[2] for segment in segments), default=0)
    fine = np.full(end + 1, UNKNOWN, dtype=np.int64)
    for name, start, stop in segments:
        fine[start:stop] = CLASSES.index(name)
    middles = (np.arange(n_frames) + 0.5) * hop_length / sample_rate
    places = np.rint((middles - WINDOW_SECONDS / 2) / FRAME_SECONDS).astype(np.int64)
    return fine[np.clip(places, 0, end)]


class Aligner:
    """Forced alignment with pocketsphinx's bundled en-us model.

    Raises:
        AudioVQError: when pocketsphinx is not installed.
    """

    def __init__(self) -> None:
        self.decoder: Any = need("pocketsphinx", "phone labels").Decoder(lm=None, loglevel="FATAL")

    def align(self, samples: np.ndarray, text: str) -> list[Segment] | str:
        """Segments of samples (T,) at 16 kHz; or the reason why there are none."""
        words = dictionary_words(text)
        if not words or any(self.decoder.lookup_word(word) is None for word in words):
            return "words outside the dictionary"
        sound = np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()
        try:
            self.decoder.set_align_text(" ".join(words))
            self._process(sound)
            # The first pass aligns the words (and pauses between them), the second the phones in them.
            self.decoder.set_alignment()
            self._process(sound)
            alignment = self.decoder.get_alignment()
        except RuntimeError:
            return "no alignment"
        found = segments_of((phone.name, phone.start, phone.duration) for word in alignment or () for phone in word)
        return found or "no alignment"

    def _process(self, sound: bytes) -> None:
        self.decoder.start_utt()
        self.decoder.process_raw(sound, full_utt=True)
        self.decoder.end_utt()


def align(
    utterances: Sequence[Utterance], progress: Progress = silent
) -> tuple[dict[str, list[Segment]], dict[str, int]]:
    """Segments by the utterance's id, from the cache or made now; and the number of utterances left out by reason.

    Raises:
        AudioVQError: when pocketsphinx is not installed.
    """
    if not utterances:
        return {}, {}
    need("pocketsphinx", "phone labels")
    key = hashlib.sha256(f"2 {version('pocketsphinx')}".encode())
    for utterance in utterances:
        key.update(f"\n{utterance.source} {utterance.id} {utterance.n_samples} {utterance.text}".encode())

    def make() -> dict[str, Any]:
        aligner, skipped, segments = Aligner(), Counter[str](), {}
        for utterance in tracked(utterances, "aligning", progress):
            found = aligner.align(utterance.load(), utterance.text or "")
            if isinstance(found, str):
                skipped[found] += 1
            else:
                segments[utterance.id] = found
        return {"segments": segments, "skipped": dict(skipped)}

    stored = ScoreCache(cache_dir()).get("phones", key.hexdigest()[:16], make)
    return {id: [tuple(one) for one in found] for id, found in stored["segments"].items()}, stored["skipped"]


@dataclass(frozen=True)
class Labelled:
    """Recordings by split: samples (T,), T a multiple of both hops, and the segments of each."""

    samples: Sequences
    segments: dict[str, list[Any]]
    skipped: dict[str, int]

    def labels(self, hop_length: int) -> Sequences:
        """Classes (T / hop_length,) of each utterance."""
        both = {part: zip(self.samples[part], self.segments[part], strict=True) for part in self.samples}
        return {
            part: [labels_at(s, len(x) // hop_length, hop_length) for x, s in pairs] for part, pairs in both.items()
        }


def labelled(splits: Mapping[str, Sequence[Utterance]], hop_length: int, progress: Progress = silent) -> Labelled:
    """The English recordings of "train" and "test" that align with their text."""
    parts = {part: [u for u in splits[part] if u.language == "en" and u.text] for part in ("train", "test")}
    aligned, skipped = align([u for part in parts.values() for u in part], progress)
    grid = int(np.lcm(hop_length, PAPER_HOP))
    taken = {part: [u for u in found if u.id in aligned and u.n_samples >= grid] for part, found in parts.items()}
    samples = {part: [x[: len(x) - len(x) % grid] for x in (u.load() for u in us)] for part, us in taken.items()}
    return Labelled(samples, {part: [aligned[u.id] for u in us] for part, us in taken.items()}, skipped)


def phone_counts(codes: Sequence[np.ndarray], labels: Sequence[np.ndarray], size: int) -> np.ndarray:
    """How often each code goes with each class: (size, len(CLASSES)), without frames labelled `UNKNOWN`."""
    pairs = [(code[known], label[known]) for code, label in zip(codes, labels, strict=True) for known in [label >= 0]]
    return _pair_counts(pairs, size, len(CLASSES))


def codes_to_phones(counts: np.ndarray) -> np.ndarray:
    """The class that each code predicts, (size,); codes not met in training predict the largest class."""
    return np.where(counts.sum(axis=1) > 0, counts.argmax(axis=1), counts.sum(axis=0).argmax())


def code_order(counts: np.ndarray) -> np.ndarray:
    """Codes in use, (n,), sorted by the phone they predict and then by how purely: counts (size, classes)."""
    used = np.flatnonzero(counts.sum(axis=1))
    purity = counts[used].max(axis=1) / counts[used].sum(axis=1)
    return used[np.lexsort((-purity, codes_to_phones(counts)[used]))]


def phone_accuracy(codes: Sequences, labels: Sequences, size: int) -> Mean:
    """Share of the frames of "test" whose label is their code's majority class in "train"."""
    mapping = codes_to_phones(phone_counts(codes["train"], labels["train"], size))
    return _accuracy(lambda code: mapping[code], codes["test"], labels["test"])


def joint_accuracy(first: Sequences, second: Sequences, labels: Sequences, size: int) -> Mean:
    """As `phone_accuracy` for pairs of codes; pairs not met in training predict as the first code alone."""
    alone = codes_to_phones(phone_counts(first["train"], labels["train"], size))
    pairs = {part: [a * size + b for a, b in zip(first[part], second[part], strict=True)] for part in first}
    met, places = np.unique(np.concatenate(pairs["train"]), return_inverse=True)
    counts = phone_counts([places.reshape(-1)], [np.concatenate(labels["train"])], len(met))
    known = counts.sum(axis=1) > 0
    met, mapping = met[known], counts[known].argmax(axis=1)

    def predict(pair: np.ndarray) -> np.ndarray:
        at = np.minimum(np.searchsorted(met, pair), len(met) - 1)
        return np.where(met[at] == pair, mapping[at], alone[pair // size])

    return _accuracy(predict, pairs["test"], labels["test"])


def _accuracy(
    predict: Callable[[np.ndarray], np.ndarray], codes: Sequence[np.ndarray], labels: Sequence[np.ndarray]
) -> Mean:
    """Share of the labelled frames that are predicted correctly, over the utterances."""
    scores = []
    for code, label in zip(codes, labels, strict=True):
        known = label != UNKNOWN
        if known.any():
            scores.append(Score(float((predict(code) == label)[known].mean()), int(known.sum())))
    return mean_of(scores) or Mean(0.0, None, 0)


def without_silence(labels: Sequences) -> Sequences:
    """Labels with silence as `UNKNOWN`."""
    return _each(lambda x: np.where(x == CLASSES.index(SILENCE), UNKNOWN, x), labels)


def largest_class(labels: Sequences) -> Mean:
    """Accuracy on "test" of the largest class of "train"."""
    return phone_accuracy(_each(np.zeros_like, labels), labels, 1)


def _each(function: Callable[[np.ndarray], np.ndarray], sequences: Sequences) -> Sequences:
    return {part: [function(x) for x in xs] for part, xs in sequences.items()}


def probe_phones(
    codec: SpeechCodec, splits: Mapping[str, Sequence[Utterance]], progress: Progress = silent
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Phones by single codes, beside k-means on other features with as many clusters on the same frames.

    Returns:
        Figures for the report; and for the plot, of the first codebook: ``counts`` (codes, classes) and
        ``transitions`` (codes, codes), how often one code follows another. None without aligned recordings in both
        splits.

    Raises:
        AudioVQError: when pocketsphinx is not installed.
    """
    data = labelled(splits, codec.hop_length, progress)
    if not all(data.samples.values()):
        return None
    latents = encoded(codec, codec.encoder, data, "coding for phones", progress)
    untrained = encoded(codec, untrained_encoder(codec), data, "coding, untrained", progress)
    progress("k-means", 0, 1)
    codes = [quantized(codec, latents, k) for k in range(min(2, codec.n_codebooks))]
    groups = [_group(codec, data, codec.hop_length, codec.codebook_size, latents, untrained, codes)]
    if (codec.hop_length, codec.codebook_size) != (PAPER_HOP, PAPER_SIZE) and PAPER_HOP % codec.hop_length == 0:
        groups.append(_group(codec, data, PAPER_HOP, PAPER_SIZE, latents, untrained, []))
    counts = phone_counts(codes[0]["train"], data.labels(codec.hop_length)["train"], codec.codebook_size)
    figures = {
        "classes": list(CLASSES),
        "utterances": {part: len(found) for part, found in data.samples.items()},
        "skipped": data.skipped,
        "groups": groups,
        "codes": [
            {"code": code, "phone": CLASSES[phone], "share": float(counts[code, phone] / counts[code].sum())}
            for code, phone in enumerate(codes_to_phones(counts))
            if counts[code].sum()
        ],
    }
    return figures, {"counts": counts, "transitions": transitions(codes[0]["train"], codec.codebook_size)}


def _group(
    codec: SpeechCodec,
    data: Labelled,
    hop_length: int,
    size: int,
    latents: Sequences,
    untrained: Sequences,
    codes: Sequence[Sequences],
) -> dict[str, Any]:
    """Rows of one frame rate and codebook size: the codebooks, if the model has such, and k-means on features."""
    everything = data.labels(hop_length)
    labels = {"speech": without_silence(everything), "all": everything}
    per_frame = hop_length // codec.hop_length
    named = {f"codebook {number}": one for number, one in enumerate(codes, 1)}
    named |= {
        f"k-means on {name}": clustered(features, size)
        for name, features in (
            ("the model's latents", pooled(latents, per_frame)),
            ("an untrained encoder's latents", pooled(untrained, per_frame)),
            ("MFCCs", mfccs(data.samples, hop_length)),
        )
    }
    rows = [
        {"representation": name, **{kind: asdict(phone_accuracy(one, x, size)) for kind, x in labels.items()}}
        for name, one in named.items()
    ]
    if len(codes) == 2:
        joint = {kind: asdict(joint_accuracy(codes[0], codes[1], x, size)) for kind, x in labels.items()}
        rows.insert(2, {"representation": "codebooks 1 and 2 jointly", **joint})
    return {
        "frame_rate": codec.sample_rate / hop_length,
        "codebook_size": size,
        "frames": {
            kind: {part: int(sum((x != UNKNOWN).sum() for x in xs)) for part, xs in found.items()}
            for kind, found in labels.items()
        },
        "largest_class": {kind: asdict(largest_class(x)) for kind, x in labels.items()},
        "rows": rows,
    }


def encoded(codec: SpeechCodec, encoder: nn.Module, data: Labelled, what: str, progress: Progress) -> Sequences:
    """Latents (F, C) of each utterance."""
    return {
        part: [
            latents_of(codec, samples, encoder).t().contiguous().numpy()
            for samples in tracked(recordings, f"{what}, {part}", progress)
        ]
        for part, recordings in data.samples.items()
    }


def untrained_encoder(codec: SpeechCodec) -> nn.Module:
    """The codec's encoder with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return type(codec)(**codec.config).eval().encoder


@torch.inference_mode()
def quantized(codec: SpeechCodec, latents: Sequences, k: int) -> Sequences:
    """Codes (F,) of codebook ``k``."""
    return _each(lambda x: codec.quantizer.encode(torch.from_numpy(x).t()[None], k + 1)[0, k].numpy(), latents)


def pooled(latents: Sequences, n: int) -> Sequences:
    """Means of ``n`` frames each: (F, C) -> (F / n, C)."""
    return _each(lambda x: x.reshape(-1, n, x.shape[1]).mean(axis=1), latents)


def mfccs(samples: Sequences, hop_length: int) -> Sequences:
    """13 MFCCs with first and second differences in the middle of each frame, scaled alike on "train": (F, 39)."""

    def of(x: np.ndarray) -> np.ndarray:
        plain = librosa.feature.mfcc(y=x, sr=16000, n_mfcc=13, n_fft=400, hop_length=160, n_mels=40)
        changes = [librosa.feature.delta(plain, order=order, mode="nearest", width=9) for order in (1, 2)]
        middles = np.rint((np.arange(len(x) // hop_length) + 0.5) * hop_length / 160).astype(np.int64)
        return np.concatenate([plain, *changes])[:, middles].T.astype(np.float32)

    found = _each(of, samples)
    train = np.concatenate(found["train"])
    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-6
    return _each(lambda x: (x - mean) / scale, found)


def clustered(features: Sequences, size: int) -> Sequences:
    """The nearest of ``size`` centres that k-means finds on "train", (F,) for each utterance."""
    train = np.concatenate(features["train"])
    size = min(size, len(np.unique(train, axis=0)))
    model = KMeans(size, init="random", n_init=1, max_iter=ITERATIONS, random_state=0).fit(train)
    return _each(lambda x: model.predict(np.ascontiguousarray(x)), features)


def transitions(codes: Sequence[np.ndarray], size: int) -> np.ndarray:
    """How often the column's code follows the row's, (size, size)."""
    return _pair_counts([(code[:-1], code[1:]) for code in codes], size, size)


def _pair_counts(pairs: Iterable[tuple[np.ndarray, np.ndarray]], n_rows: int, n_columns: int) -> np.ndarray:
    counts = np.zeros((n_rows, n_columns), dtype=np.int64)
    for rows, columns in pairs:
        np.add.at(counts, (rows, columns), 1)
    return counts
