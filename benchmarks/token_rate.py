"""Hours of audio that are coded in an hour: by one CPU thread, by a GPU, and by a Ray cluster of this machine.

    python benchmarks/token_rate.py [--model NAME|DIR] [--seconds 120] [--ray 2] [--json]

``cpu`` counts processor time of one thread of `SpeechCodec.encode`, which a busy machine leaves comparable; ``gpu`` is
the clock's, with recordings of 2 to 20 s in batches. Reading files is not counted: FLAC at 16 kHz decodes at several
hundred times that speed. ``--ray N`` writes the same shards with one worker and with N and prints the ratio of the
clock's times from the first shard on, which needs N idle cores, and the CPU seconds of both.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from audiovq.codec.codec import SpeechCodec
from audiovq.data.token_coding import Cluster, Coding, Tell
from audiovq.data.token_files import CodesModel
from audiovq.data.token_sources import list_sources
from audiovq.data.token_writing import write_tokens
from audiovq.hub import model_facts

RECORDING = Path(__file__).resolve().parent.parent / "recipes" / "demo" / "speech.flac"


def recordings(seconds: float) -> list[np.ndarray]:
    """Stretches of 2 to 20 s, so many seconds in all."""
    samples, rate = soundfile.read(RECORDING, dtype="float32")
    rng, items, total = np.random.default_rng(0), [], 0.0
    while total < seconds:
        length = min(float(rng.uniform(2, 20)), seconds - total + 1)
        items.append(np.resize(np.roll(samples, int(rng.integers(len(samples)))), round(length * rate)))
        total += length
    return items


def on_cpu(codec: Any, items: list[np.ndarray]) -> float:
    """Seconds of audio in a second of one thread's processor time."""
    codec.encode(items[:1])
    start = time.process_time()
    codec.encode(items)
    return sum(map(len, items)) / codec.sample_rate / (time.process_time() - start)


def on_gpu(codec: Any, items: list[np.ndarray]) -> float:
    """Seconds of audio in a second of the clock on a GPU."""
    codec.to("cuda")
    codec.encode(items)
    torch.cuda.synchronize()
    start = time.perf_counter()
    codec.encode(items)
    torch.cuda.synchronize()
    return sum(map(len, items)) / codec.sample_rate / (time.perf_counter() - start)


class FirstShard(Tell):
    """The time at which the first shard was finished: workers have started by then."""

    when: float | None = None

    def shard(self, name: str, n_items: int, seconds: float) -> None:
        self.when = self.when or time.perf_counter()


def on_ray(model: str, items: list[np.ndarray], workers: int) -> dict[str, float]:
    """Times of one worker and of several for the same shards."""
    facts = model_facts(model)
    whose = CodesModel.of(facts)
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, item in enumerate(items):
            soundfile.write(Path(folder) / f"{i:05d}.wav", item, facts.sample_rate)
        sources = list_sources(folder)
        for n in (1, workers):
            first = FirstShard()
            coding = Coding(model, facts.default_n_codebooks)
            settings = {"shard_items": max(len(items) // 24, 1), "tell": first, "cluster": Cluster(workers=n)}
            write_tokens(sources, Path(folder) / f"out-{n}", whose, coding, **settings)
            times[f"ray_{n}_s"] = time.perf_counter() - (first.when or 0.0)
    return times | {"ray_ratio": times["ray_1_s"] / times[f"ray_{workers}_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="speech")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--ray", type=int, metavar="N")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    codec, items = SpeechCodec.from_pretrained(options.model), recordings(options.seconds)
    found = {"cpu_hours_per_hour": on_cpu(codec, items)}
    if not torch.cuda.is_available():
        print("no GPU here: skipped")
    else:
        found["gpu_hours_per_hour"] = on_gpu(codec, recordings(60 * options.seconds))
    if options.ray:
        found |= on_ray(options.model, items, options.ray)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            print(f"{name:22s} {value:10.1f}")


if __name__ == "__main__":
    main()
