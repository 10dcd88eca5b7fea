"""Conversions of validation recordings to other speakers of the training set: figures to choose settings by.

    python recipes/voice_conversion/validate.py MODEL [--codebooks 1,2] [--pairs 30]

The fixed pairs of ``evaluate.py`` are test recordings, by which nothing may be chosen. Here a source is a recording of
2.5 to 8 s with a text; the target's vector is of four of its training recordings, and its embedding (Resemblyzer) the
mean of eight others. Prints word errors of Whisper, cosines to target and source, and the share of conversions that are
closer to the target.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from audiovq import SpeechCodec
from audiovq.conversion.target import TargetVoice
from audiovq.data import open_corpus
from audiovq.data.utterance import SAMPLE_RATE, Utterance
from audiovq.evaluation.pretrained import LANGUAGES, SpeakerCosine, count_errors, shared_whisper, words

IN_VECTOR, IN_EMBEDDING = 4, 8


def by_speaker(split: str, shortest: float, longest: float, fewest: int) -> dict[str, list[Utterance]]:
    """Recordings of the corpus by their speakers, of whom there are ``fewest`` at least."""
    found: dict[str, list[Utterance]] = {}
    for utterance in open_corpus("debian_speech", split):
        if shortest < utterance.seconds < longest and (split == "train" or known(utterance)):
            found.setdefault(utterance.speaker, []).append(utterance)
    return {speaker: items for speaker, items in sorted(found.items()) if len(items) >= fewest}


def known(utterance: Utterance) -> bool:
    """Whether Whisper's words can be compared with a text."""
    return bool(utterance.text) and utterance.language in LANGUAGES


def draw_pairs(n: int) -> list[tuple[Utterance, str]]:
    """Sources and the names of their target speakers, always the same."""
    rng = np.random.default_rng(5)
    sources, targets = by_speaker("validation", 2.5, 8, 2), list(by_speaker("train", 2, 9, IN_VECTOR + IN_EMBEDDING))
    pairs = []
    for i in range(n):
        speaker = list(sources)[i % len(sources)]
        source = sources[speaker][rng.integers(len(sources[speaker]))]
        others = [name for name in targets if name != speaker]
        pairs.append((source, others[rng.integers(len(others))]))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name or folder")
    parser.add_argument("--codebooks", default="1,2", help="numbers of codebooks (default: 1,2)")
    parser.add_argument("--pairs", type=int, default=30, help="number of conversions (default: 30)")
    options = parser.parse_args()
    codec, cosine, whisper = SpeechCodec.from_pretrained(options.model), SpeakerCosine(), shared_whisper()
    numbers = [int(n) for n in options.codebooks.split(",")]
    targets = by_speaker("train", 2, 9, IN_VECTOR + IN_EMBEDDING)
    known_targets: dict[str, tuple[TargetVoice, np.ndarray]] = {}
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in ("source", *map(str, numbers))}
    for utterance, name in draw_pairs(options.pairs):
        if name not in known_targets:
            chosen = np.random.default_rng(1).permutation(len(targets[name]))[: IN_VECTOR + IN_EMBEDDING]
            samples = [targets[name][i].load() for i in chosen]
            mean = np.mean([cosine.embed(x) for x in samples[IN_VECTOR:]], axis=0)
            known_targets[name] = codec.target_voice(samples[:IN_VECTOR]), mean / np.linalg.norm(mean)
        voice, embedding = known_targets[name]
        source, text = utterance.load(), words(utterance.text, utterance.language)
        own = cosine.embed(source)
        with torch.inference_mode():
            converted = [codec.convert(source, voice, SAMPLE_RATE, n)[0, 0].numpy() for n in numbers]
        for row, waveform in zip(rows.values(), [source, *converted], strict=True):
            vector = cosine.embed(waveform)
            errors = count_errors(text, whisper.read(waveform, utterance.language))
            row.append((errors, len(text), vector @ embedding, vector @ own))
    print("| codebooks | WER % | to target | to source | closer % |\n|---|---|---|---|---|")
    for system, row in rows.items():
        errors, n_words, target, source = np.array(row).T
        rate, closer = 100 * errors.sum() / n_words.sum(), 100 * np.mean(target > source)
        print(f"| {system} | {rate:.1f} | {target.mean():.3f} | {source.mean():.3f} | {closer:.0f} |")


if __name__ == "__main__":
    main()
