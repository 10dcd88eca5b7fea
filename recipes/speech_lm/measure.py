"""How fast recordings become shards, how large these are, and how fast they are read: results.json and results.md.

python recipes/speech_lm/measure.py --corpus debian_speech --minutes 60
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch

from audiovq.cli.tokenize import model_of
from audiovq.data import TokenDataset, TokenShards
from audiovq.data.token_coding import Coding
from audiovq.data.token_files import create_shard
from audiovq.data.token_sources import TokenSource, list_sources
from audiovq.data.token_writing import write_tokens

HERE = Path(__file__).resolve().parent
BYTES_A_MINUTE = 60 * 2 * 16000


def choose(sources: list[TokenSource], minutes: float) -> list[TokenSource]:
    """Recordings spread over the corpus that take so many minutes as 16-bit samples."""
    total = sum(source.n_bytes for source in sources)
    step = max(int(total / (minutes * BYTES_A_MINUTE)), 1)
    return sources[::step]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", default="debian_speech", help="prepared corpus: its name or folder")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--codebooks", type=int, nargs="+", default=[4, 8], help="of the model speech; tokens has one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources = choose(list_sources(options.corpus), options.minutes)
    rows = []
    for model, n_codebooks in [*(("speech", n) for n in options.codebooks), ("tokens", 1)]:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(sources, model, n_codebooks, options.workers, Path(folder)))
    results = {
        "corpus": options.corpus,
        "recordings": len(sources),
        "workers": options.workers,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "rows": rows,
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (HERE / "results.md").write_text(table(results))
    print(table(results))


def measure(sources: list[TokenSource], name: str, n_codebooks: int, workers: int, folder: Path) -> dict:
    model = model_of(name, n_codebooks, None)
    start, processor = time.perf_counter(), time.process_time()
    done = write_tokens(sources, folder / "tar", model, Coding(name, n_codebooks), "tar", workers)
    coding, processor = time.perf_counter() - start, time.process_time() - processor
    (folder / "parquet").mkdir()
    shards = TokenShards(folder / "tar")
    for index, path in enumerate(shards.files):
        writer = create_shard(folder / "parquet" / f"{path.stem}.parquet", "parquet", model, "")
        for item in shards.read(index):
            writer.add(item)
        writer.close()
    hours = done.seconds / 3600
    sizes = {
        name: sum(path.stat().st_size for path in (folder / name).glob("shard-*")) / hours / 1e6
        for name in ("tar", "parquet")
    }
    start = time.perf_counter()
    n_tokens = sum(item["codes"].numel() for item in TokenDataset(folder / "tar", layout="interleaved", shuffle=1000))
    reading = time.perf_counter() - start
    return {
        "model": name,
        "codebooks": n_codebooks,
        "hours": round(hours, 3),
        "hours_per_hour": round(done.seconds / coding, 1),
        # Of this process: with one worker it does all the work.
        "hours_per_processor_hour": round(done.seconds / processor, 1) if workers == 1 else None,
        "megabytes_per_hour": {name: round(size, 2) for name, size in sizes.items()},
        "tokens_read_per_second": round(n_tokens / reading),
    }


def table(results: dict) -> str:
    lines = [
        f"{results['recordings']} recordings of {results['corpus']}, {results['workers']} process(es) on "
        f"{results['cores']} core(s), loading the model included.",
        "",
        "| model | codebooks | hours coded | hours of audio per hour | per hour of processor time "
        + "| MB an hour, tar | Parquet | tokens read a second |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        size = row["megabytes_per_hour"]
        cells = [row["model"], str(row["codebooks"]), f"{row['hours']:.2f}", f"{row['hours_per_hour']:.0f}"]
        cells += [str(row["hours_per_processor_hour"] or "-"), f"{size['tar']:.2f}", f"{size['parquet']:.2f}"]
        lines.append("| " + " | ".join([*cells, f"{row['tokens_read_per_second']:,}"]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
