"""Cost of many `audiovq` processes at once, and of many short files in one.

    python benchmarks/load.py [--json] [--model NAME|DIR] [--encodes 8] [--seconds 10] [--files 10000] [--core N]

Processes: ``--encodes`` calls of `audiovq encode`, one after the other and then all at once. ``wall_ratio`` is the time
at once over the time in a row: on one core (``--core``) it is 1 when processes do not hinder each other, on all cores
less. ``cpu_ratio`` is the same of processor time, which a busy machine leaves comparable; threads that wait by spinning
would raise it. ``threads`` is the most threads that one of the processes had.

Files: folders of short files (0.3 s) by `encode` (ONNX Runtime) and by `tokenize` (PyTorch), with ``--files`` and a
tenth of them. ``coding_ms`` is the processor time of coding the same audio in memory on the same engine,
``overhead_ms`` that per additional file less it; ``extra_mb`` is the difference of the peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

AUDIOVQ = [sys.executable, "-W", "ignore", "-m", "audiovq"]
SHORT_SECONDS = 0.3
RATE = 16000


def noise_bursts(seconds: float, seed: int) -> np.ndarray:
    """(T,) float32: noise in syllables."""
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * RATE)) / RATE
    envelope = np.clip(np.sin(2 * np.pi * 3 * t + seed), 0.05, None)
    return (0.1 * envelope * rng.standard_normal(len(t))).astype(np.float32)


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    """A call of the command line."""
    return subprocess.Popen([*AUDIOVQ, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Processor seconds and peak resident megabytes (10^6 bytes) of a call."""
    assert process.stderr is not None
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(message.decode(errors="replace"))
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def count_threads(pids: list[int], most: list[int], stopped: threading.Event) -> None:
    """Note the largest number of threads of any of the processes until ``stopped``."""
    while not stopped.wait(0.2):
        for pid in pids:
            try:
                most[0] = max(most[0], len(os.listdir(f"/proc/{pid}/task")))
            except OSError:
                continue


def measure_processes(which: list[str], n: int, seconds: float, folder: Path) -> dict[str, float]:
    """``n`` encodes in a row and at once."""
    import soundfile

    soundfile.write(folder / "a.wav", noise_bursts(seconds, 0), RATE)
    call = ["encode", folder / "a.wav", "-f", *which, "-o"]
    finish(start(*call, folder / "warm.avq"))
    begin = time.perf_counter()
    in_a_row = [finish(start(*call, folder / f"{i}.avq"))[0] for i in range(n)]
    wall_in_a_row = time.perf_counter() - begin
    begin = time.perf_counter()
    processes = [start(*call, folder / f"{i}.avq") for i in range(n)]
    most, stopped = [0], threading.Event()
    counter = threading.Thread(target=count_threads, args=([p.pid for p in processes], most, stopped))
    counter.start()
    at_once = [finish(process)[0] for process in processes]
    wall_at_once = time.perf_counter() - begin
    stopped.set()
    counter.join()
    return {
        "encodes": n,
        "wall_in_a_row": wall_in_a_row,
        "wall_at_once": wall_at_once,
        "wall_ratio": wall_at_once / wall_in_a_row,
        "cpu_in_a_row": sum(in_a_row),
        "cpu_at_once": sum(at_once),
        "cpu_ratio": sum(at_once) / sum(in_a_row),
        "threads": most[0],
    }


def coding_ms(verb: str, model: str | None) -> float:
    """Processor time in ms of coding a short recording in memory, on the engine of ``verb``, the median of 30."""
    import torch

    from audiovq import SpeechCodec
    from audiovq.codec.onnx_codec import OnnxCodec

    torch.set_num_threads(1)
    codec: Any = (OnnxCodec if verb == "encode" else SpeechCodec).from_pretrained(model)
    times = []
    for seed in range(32):
        samples = noise_bursts(SHORT_SECONDS, seed)
        begin = time.process_time()
        stream = codec.encoder_stream()
        stream.push(samples)
        stream.finish()
        times.append(1000 * (time.process_time() - begin))
    return float(np.median(times[2:]))


def measure_files(model: str | None, which: list[str], n: int, folder: Path) -> dict[str, float]:
    """Folders of ``n`` short files and of a tenth of them."""
    import soundfile

    results: dict[str, float] = {"files": n}
    costs: dict[str, list[tuple[float, float]]] = {"encode": [], "tokenize": []}
    for count in (max(n // 10, 1), n):
        source = folder / f"in{count}"
        source.mkdir()
        for i in range(count):
            soundfile.write(source / f"{i:06d}.wav", noise_bursts(SHORT_SECONDS, i), RATE)
        for verb in costs:
            options = ["--workers", "1"] if verb == "tokenize" else []
            costs[verb].append(finish(start(verb, source, "-o", folder / f"{verb}{count}", *which, *options)))
    added = n - max(n // 10, 1)
    for verb, ((few_seconds, few_mb), (seconds, mb)) in costs.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # this one's memory would count as its children's
            own = pool.apply(coding_ms, (verb, model))
        results[f"{verb}_coding_ms"] = own
        results[f"{verb}_ms_per_file"] = 1000 * (seconds - few_seconds) / added
        results[f"{verb}_overhead_ms"] = results[f"{verb}_ms_per_file"] - own
        results[f"{verb}_peak_mb"] = mb
        results[f"{verb}_extra_mb"] = mb - few_mb
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", help="bundled model's name or a folder")
    parser.add_argument("--encodes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the recording that is encoded")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--core", type=int, help="run everything on this one core")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    which = ["--model", options.model] if options.model else []
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        if options.encodes:
            results |= measure_processes(which, options.encodes, options.seconds, Path(name))
        if options.files:
            results |= measure_files(options.model, which, options.files, Path(name))
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        for key, value in results.items():
            print(f"{key:24} {value:10,.2f}")


if __name__ == "__main__":
    main()
