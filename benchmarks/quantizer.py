"""Vectors a second of quantizer training steps, against vector-quantize-pytorch and the bare matrix product.

    python benchmarks/quantizer.py [--json] [--rounds 5]

Everything runs on one thread with 65,536 vectors, in two fresh processes: one with glibc's default allocator, one
with its thresholds raised (MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_), because by default large temporaries are
mapped and zeroed anew at each operation. Candidates take turns and the fastest of ``--rounds`` turns counts, in seconds
of the processor, which other work on the machine disturbs less than the clock. A training step is the forward pass in
training mode on latents that ask for gradients. Memory is the peak resident size above that before the first step on
these vectors (start from data included), less the tensors returned; a step on few vectors has loaded the library's code
before. It is measured in a process of its own for each candidate.

The keys without a suffix are for the default allocator, those that end in ``_raised`` for the raised thresholds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

N_VECTORS, N_ITEMS = 65_536, 16
CASES = {"ema": {"size": 512, "dim": 64}, "cosine": {"size": 1024, "dim": 8}}
LIMIT = str(2**32)
RAISED = {"MALLOC_MMAP_THRESHOLD_": LIMIT, "MALLOC_TRIM_THRESHOLD_": LIMIT, "MALLOC_TOP_PAD_": str(2**28)}


def candidates(case: str, n_vectors: int = N_VECTORS) -> dict[str, Callable[[], object]]:
    """Functions to call for each name, on the same vectors."""
    import torch
    from vector_quantize_pytorch import VectorQuantize

    from audiovq.quantize import VectorQuantizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    size, dim = CASES[case]["size"], CASES[case]["dim"]
    rows = torch.randn(N_ITEMS, n_vectors // N_ITEMS, dim, requires_grad=True)
    columns = rows.detach().movedim(1, 2).contiguous().requires_grad_()
    cosine = case == "cosine"
    ours = VectorQuantizer(dim, size, normalised=cosine)
    theirs = VectorQuantize(dim, codebook_size=size, use_cosine_sim=cosine, decay=0.99, commitment_weight=0.25)
    theirs.train()
    flat, table = rows.detach().flatten(0, 1), torch.randn(dim, size)
    product = torch.empty(n_vectors, size)
    return {
        "ours": lambda: ours(columns),
        "vector_quantize_pytorch": lambda: theirs(rows),
        "matmul": lambda: flat @ table,
        "matmul_in_place": lambda: torch.mm(flat, table, out=product),
    }


def measure_speed(case: str, rounds: int) -> dict[str, float]:
    """Vectors a second of each candidate."""
    best: dict[str, float] = {}
    functions = candidates(case)
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds = time.process_time() - start
            if turn > 0:  # the first turn warms up
                best[name] = min(best.get(name, seconds), seconds)
    return {name: N_VECTORS / seconds for name, seconds in best.items()}


def measure_memory(case: str, name: str) -> dict[str, float]:
    """Megabytes (10^6 bytes) at the peak of three training steps, and how much of them is the result."""
    import torch

    candidates(case, 256)[name]()
    function = candidates(case)[name]
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    for _ in range(3):
        result = None  # or two results are there at once
        result = function()
    peak = _resident("VmHWM") - before
    tensors = result if isinstance(result, tuple) else vars(result).values()
    returned = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor)) / 1e6
    return {"peak_mb": peak, "returned_mb": returned, "extra_mb": peak - returned}


def _resident(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no {key} in /proc/self/status")


def run(environment: dict[str, str], *arguments: str) -> dict[str, float]:
    """This script in a process of its own."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, env={**clean, **threads, **environment}, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def benchmark(rounds: int) -> dict[str, float]:
    """All measurements and the ratios the project promises."""
    report: dict[str, float] = {}
    raw: dict[str, float] = {}
    for suffix, environment in (("", {}), ("_raised", RAISED)):
        for case in CASES:
            speed = run(environment, "--measure", "speed", case, str(rounds))
            raw.update({f"{case}_{name}_vectors_per_second{suffix}": value for name, value in speed.items()})
            report[f"{case}_vs_vector_quantize_pytorch{suffix}"] = speed["ours"] / speed["vector_quantize_pytorch"]
            bare = max(speed["matmul"], speed["matmul_in_place"])
            report[f"{case}_of_matmul{suffix}"] = speed["ours"] / bare
    for case in CASES:
        for name in ("ours", "vector_quantize_pytorch"):
            memory = run({}, "--measure", "memory", case, name)
            raw.update({f"{case}_{name}_{key}": value for key, value in memory.items()})
    report["extra_mb"] = max(raw[f"{case}_ours_extra_mb"] for case in CASES)
    return {**report, **raw}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        kind, case, third = arguments.measure
        values = measure_speed(case, int(third)) if kind == "speed" else measure_memory(case, third)
        print(json.dumps(values))
        return
    report = benchmark(arguments.rounds)
    if arguments.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:64} {value:14,.2f}")


if __name__ == "__main__":
    main()
