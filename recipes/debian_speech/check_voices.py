"""Check by speaker embeddings that each speaker of a prepared corpus is one person, and a person of its own.

    python recipes/debian_speech/check_voices.py [--corpus DIR] [--json FILE]

Needs the extra ``eval``. For every speaker it prints the cosine of the utterances to their mean, how well two groups
separate (a cosine under about 0.75 between the two groups' means is likely two persons), and the speaker whose mean is
nearest. Look at the names in the smaller group before writing them into corrections.json. Words under a second say
little on their own.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from audiovq.data.utterance import Utterance, open_shards
from audiovq.errors import AudioVQError
from audiovq.evaluation.pretrained import load_speaker_encoder
from audiovq.io import cache_dir


def embed(utterances: list[Utterance], console: Console) -> np.ndarray:
    """Unit vectors (N, 256)."""
    _module, encoder = load_speaker_encoder()
    vectors = []
    for utterance in track(utterances, "embedding", console=console):
        samples = utterance.load()
        level = np.sqrt(np.mean(samples**2)) + 1e-9
        samples = np.pad(samples * (10 ** (-30 / 20) / level), (0, max(0, 4000 - len(samples))))
        vectors.append(encoder.embed_utterance(samples.astype(np.float32), rate=1.0))
    return np.stack(vectors)


def mean(vectors: np.ndarray) -> np.ndarray:
    total = vectors.sum(axis=0)
    return total / np.linalg.norm(total)


def halves(vectors: np.ndarray) -> np.ndarray:
    """Two groups (N,) bool by 2-means on the sphere, started from what is least like the mean; True is the smaller."""
    score = vectors @ mean(vectors)
    second = score <= np.percentile(score, 10)
    for _ in range(100):
        if second.all() or not second.any():
            break
        margin = vectors @ (mean(vectors[second]) - mean(vectors[~second]))
        if ((margin > 0) == second).all():
            break
        second = margin > 0
    return ~second if second.mean() > 0.5 else second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=cache_dir() / "data" / "debian_speech")
    parser.add_argument("--json", type=Path, help="write each speaker's smaller group, with its figures, here")
    parser.add_argument("--seconds", type=float, default=0.9, help="leave shorter utterances out")
    arguments = parser.parse_args()
    console = Console()
    utterances = [u for u in open_shards(arguments.corpus) if u.seconds >= arguments.seconds]
    vectors = embed(utterances, console)
    names = np.array([u.speaker for u in utterances])
    table = Table("speaker", "utterances", "cosine to the mean: 1 %", "median", "smaller group", "cosine of the groups")
    table.add_column("nearest speaker")
    means = {str(name): mean(vectors[names == name]) for name in sorted(set(names))}
    report = {}
    for name in means:
        chosen = np.flatnonzero(names == name)
        if len(chosen) < 10:
            continue
        own = vectors[chosen]
        second = halves(own)
        between = float(mean(own[second]) @ mean(own[~second])) if second.any() and not second.all() else 1.0
        low, median = np.percentile(own @ mean(own), [1, 50])
        likeness, nearest = max(((float(means[name] @ means[x]), x) for x in means if x != name), default=(0.0, ""))
        figures = (f"{low:.2f}", f"{median:.2f}", str(second.sum()), f"{between:.2f}")
        near = f"{nearest.partition('/')[2]} {likeness:.2f}"
        table.add_row(name.partition("/")[2], str(len(chosen)), *figures, near)
        report[name] = {"cosine": between, "second": [utterances[i].id for i in chosen[second]]}
    console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    try:
        main()
    except AudioVQError as error:
        sys.exit(f"error: {error}")
