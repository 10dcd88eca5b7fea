"""Pitch labels of corpora: where two of three trackers agree.

    python recipes/pitch_tracker/label.py [CORPUS|FOLDER ...]

Praat (autocorrelation), WORLD (DIO with StoneMask) and SwiftF0 are run over every utterance. A frame of 20 ms is
unvoiced where two of them say so, and has the mean of the two closest values where two agree within 50 cents; other
frames are left without a label. Needs praat-parselmouth, pyworld and swift-f0. Writes `<cache>/pitch/CORPUS.npz`;
utterances that it holds already are not tracked again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from audiovq.codec.encoder import hz_to_pitch
from audiovq.data import open_corpus
from audiovq.errors import with_pkg_resources
from audiovq.io import atomic_write, cache_dir

HOP, RATE = 320, 16000
UNKNOWN = -1
TRACKERS = ("praat", "world", "swift")


def at_frames(times: np.ndarray, hz: np.ndarray, n_frames: int) -> np.ndarray:
    """The value nearest to the middle of each frame."""
    centres = (np.arange(n_frames) + 0.5) * HOP / RATE
    if not len(times):
        return np.zeros(n_frames)
    right = np.searchsorted(times, centres).clip(1, len(times) - 1) if len(times) > 1 else np.zeros(n_frames, int)
    left = np.maximum(right - 1, 0)
    nearest = np.where(centres - times[left] < times[right] - centres, left, right)
    return hz[nearest]


def praat(samples: np.ndarray, n_frames: int) -> np.ndarray:
    import parselmouth

    if len(samples) < 0.07 * RATE:
        return np.zeros(n_frames)
    pitch = parselmouth.Sound(samples.astype(np.float64), RATE).to_pitch_ac(0.01, 55.0, pitch_ceiling=620.0)
    return at_frames(pitch.xs(), pitch.selected_array["frequency"], n_frames)


def world(samples: np.ndarray, n_frames: int) -> np.ndarray:
    with with_pkg_resources():
        import pyworld

    samples = samples.astype(np.float64)
    hz, times = pyworld.dio(samples, RATE, f0_floor=55.0, f0_ceil=620.0, frame_period=10.0)
    return at_frames(times, pyworld.stonemask(samples, hz, times, RATE), n_frames)


class Swift:
    def __init__(self) -> None:
        from swift_f0 import SwiftF0

        self.tracker = SwiftF0(threads=1, spin=False)

    def __call__(self, samples: np.ndarray, n_frames: int) -> np.ndarray:
        result = self.tracker.detect(samples, RATE, 50.0, 630.0)
        hz = np.where(result.confidence >= 0.5, result.pitch_hz, 0.0)
        return at_frames(result.timestamps, hz, n_frames)


def agreement(candidates: np.ndarray) -> np.ndarray:
    """Pitch codes (F,) from the trackers' values (3, F) in Hz; `UNKNOWN` where no two agree."""
    voiced = candidates > 0
    logs = np.log2(np.where(voiced, candidates, 1.0))
    best, value = np.full(candidates.shape[1], np.inf), np.zeros(candidates.shape[1])
    for a in range(len(candidates)):
        for b in range(a):
            distance = np.where(voiced[a] & voiced[b], np.abs(logs[a] - logs[b]), np.inf)
            value = np.where(distance < best, (logs[a] + logs[b]) / 2, value)
            best = np.minimum(best, distance)
    codes = hz_to_pitch(torch.from_numpy(2.0**value)).numpy()
    codes = np.where(best <= 50 / 1200, codes, UNKNOWN)
    return np.where(voiced.sum(0) <= 1, 0, codes).astype(np.int16)


def read(path: Path) -> dict[str, np.ndarray]:
    """Labels by utterance, as far as there are any."""
    if not path.is_file():
        return {}
    with np.load(path) as kept:
        return dict(zip(kept["ids"].tolist(), np.split(kept["labels"], kept["ends"][:-1]), strict=True))


def compare(values: np.ndarray) -> dict[str, tuple[float, float]]:
    """Each tracker against the agreement of the two others, from values (3, F) in Hz.

    Returns:
        Per cent of frames with wrong voicing, and of voiced frames that are off by a semitone and more, by tracker.
    """
    errors = {}
    for i, name in enumerate(TRACKERS):
        others = np.delete(values, i, axis=0)
        voiced = others > 0
        logs = np.log2(np.where(voiced, others, 1.0))
        agreed = voiced.all(0) & (np.abs(logs[0] - logs[1]) < 50 / 1200)
        unvoiced = ~voiced.any(0)
        own = values[i] > 0
        both = agreed & own
        distance = np.abs(np.log2(np.where(own, values[i], 1.0)) - logs.mean(0))
        wrong = np.count_nonzero((agreed & ~own) | (unvoiced & own))
        gross = np.count_nonzero(both & (distance > 100 / 1200))
        errors[name] = (100 * wrong / max((agreed | unvoiced).sum(), 1), 100 * gross / max(both.sum(), 1))
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="*", default=["debian_speech"])
    parser.add_argument("--all-trackers", action="store_true", help="keep each tracker's values, to compare them")
    arguments = parser.parse_args()
    swift = Swift()
    for corpus in arguments.corpora:
        path = cache_dir() / "pitch" / f"{Path(corpus).name}.npz"
        known = read(path) if not arguments.all_trackers else {}
        ids, labels, values = [], [], []
        for utterance in track(open_corpus(corpus, None), description=corpus):
            n_frames = -(-utterance.n_samples // HOP)
            if len(known.get(utterance.id, ())) == n_frames:
                ids.append(utterance.id)
                labels.append(known[utterance.id])
                continue
            samples = utterance.load()
            three = np.stack([tracker(samples, n_frames) for tracker in (praat, world, swift)])
            ids.append(utterance.id)
            labels.append(agreement(three))
            values.append(three.astype(np.float32))
        ends = np.cumsum([len(one) for one in labels])
        kept = {"ids": np.array(ids), "ends": ends, "labels": np.concatenate(labels)}
        if arguments.all_trackers:
            kept["values"] = np.concatenate(values, axis=1)
            for name, (voicing, gross) in compare(kept["values"]).items():
                print(f"{name}: voicing {voicing:.1f} %, off by a semitone and more {gross:.1f} %")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **kept)


if __name__ == "__main__":
    main()
