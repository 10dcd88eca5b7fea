"""Times real time of coding and decoding speech, against EnCodec's architecture on the same thread in the same run.

    python benchmarks/codec.py [--json] [--seconds 10] [--model NAME|DIR] [--rounds 7] [--memory]

Both get one recording of ``--seconds`` at their own rate (16 and 24 kHz) in one call, on one thread. EnCodec is the
package's 24 kHz model at 6 kb/s with random weights: nothing is downloaded, and speed does not depend on them. Ours is
the bundled model or ``--model``. They take
turns and the median of ``--rounds`` counts. ``convert`` is conversion to another voice, the pitch moved by three
semitones. All of that in two fresh processes: with glibc's default allocator, and
(keys that end in ``_raised``) with its thresholds raised for both. Keys that end in ``_per_cpu_second`` count processor
time instead of the clock: what a busy machine leaves comparable.

``--memory`` also measures the command line: the peak memory of coding and decoding one minute and one hour, and the
time ``audiovq --help`` takes to answer (median of 5).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT = str(2**32)
RAISED = {"MALLOC_MMAP_THRESHOLD_": LIMIT, "MALLOC_TRIM_THRESHOLD_": LIMIT, "MALLOC_TOP_PAD_": str(2**28)}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
ENCODEC_KBPS = 6.0


def speech_like(seconds: float, sample_rate: int):
    """(T,) float32: a buzz with a moving pitch, in syllables, with noise."""
    import numpy as np

    t = np.arange(round(seconds * sample_rate), dtype=np.float32) / sample_rate
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.5 * t)
    phase = np.cumsum(2 * np.pi * pitch / sample_rate, dtype=np.float64)
    buzz = sum(np.sin(k * phase) / k for k in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * 2.2 * t), 0, None)
    noise = np.random.default_rng(0).standard_normal(len(t))
    return (0.15 * syllables * buzz + 0.003 * noise).astype(np.float32)


def candidates(model: str | None, seconds: float) -> tuple[dict[str, Callable[[], object]], dict[str, Any]]:
    """Functions to time by name, and what there is to know of them."""
    import torch
    from encodec import EncodecModel

    from audiovq import SpeechCodec

    torch.set_num_threads(1)
    codec = SpeechCodec.from_pretrained(model)
    torch.manual_seed(0)
    encodec = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    encodec.set_target_bandwidth(ENCODEC_KBPS)
    waveform = torch.from_numpy(speech_like(seconds, 16000)).view(1, 1, -1)
    waveform_24 = torch.from_numpy(speech_like(seconds, 24000)).view(1, 1, -1)
    with torch.inference_mode():
        encoded, frames = codec.encode(waveform), encodec.encode(waveform_24)

    def theirs(function: Callable[..., object], argument: object) -> Callable[[], object]:
        def call() -> object:
            with torch.inference_mode():
                return function(argument)

        return call

    target = codec.target_voice(speech_like(8.0, 16000)[::-1].copy())
    functions: dict[str, Callable[[], object]] = {
        "encode": lambda: codec.encode(waveform),
        "encodec_encode": theirs(encodec.encode, waveform_24),
        "decode": lambda: codec.decode(encoded),
        "encodec_decode": theirs(encodec.decode, frames),
        "convert": lambda: codec.convert(waveform, target, pitch=3.0),
    }
    about = {"model": codec.name, "n_codebooks": codec.default_n_codebooks}
    return functions, about | {"torch": torch.__version__, "encodec_kbps": ENCODEC_KBPS}


def measure_speed(model: str | None, seconds: float, rounds: int) -> dict[str, Any]:
    """Times real time of each candidate and our ratios."""
    functions, about = candidates(model, seconds)
    clock: dict[str, list[float]] = {name: [] for name in functions}
    processor: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 2):
        for name, function in functions.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            function()
            if turn >= 2:  # two turns warm up
                clock[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - start_cpu)
    rates = {f"{name}_real_time": seconds / statistics.median(times) for name, times in clock.items()}
    ratios = {
        f"{name}_vs_encodec": rates[f"{name}_real_time"] / rates[f"encodec_{name}_real_time"]
        for name in ("encode", "decode")
    }
    cpu = {f"{name}_per_cpu_second": seconds / statistics.median(times) for name, times in processor.items()}
    return rates | ratios | cpu | about


def in_fresh_process(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """This file's worker in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--worker", *arguments]
    done = subprocess.run(command, env={**os.environ, **ONE_THREAD, **environment}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def cost_of(command: list[str]) -> tuple[float, float, float]:
    """Of a command: peak resident megabytes (10^6 bytes), seconds by the clock and of the processor."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_maxrss * 1024 / 1e6, time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def measure_memory(model: str | None) -> dict[str, float]:
    """Peaks of the command line for one minute and one hour, and how fast it starts."""
    import soundfile

    audiovq = [sys.executable, "-W", "ignore", "-c", "import sys; from audiovq.cli import main; sys.exit(main())"]
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        which = ["--model", model] if model else []
        minute = speech_like(60, 16000)
        for label, minutes in (("minute", 1), ("hour", 60)):
            wav, avq, out = (folder / f"{label}{suffix}" for suffix in (".wav", ".avq", ".out.wav"))
            with soundfile.SoundFile(wav, "w", 16000, 1, "PCM_16") as file:
                for _ in range(minutes):
                    file.write(minute)
            for verb, source, target in (("encode", wav, avq), ("decode", avq, out)):
                peak, seconds, _ = cost_of([*audiovq, verb, str(source), "-o", str(target), *which])
                results[f"{verb}_{label}_peak_mb"] = peak
                results[f"{verb}_{label}_seconds"] = seconds
            out.unlink()
            wav.unlink()
    for verb in ("encode", "decode"):
        results[f"{verb}_hour_extra_mb"] = results[f"{verb}_hour_peak_mb"] - results[f"{verb}_minute_peak_mb"]
    starts = [cost_of([*audiovq, "--help"]) for _ in range(5)]
    results["help_seconds"] = statistics.median(seconds for _, seconds, _ in starts)
    results["help_cpu_seconds"] = statistics.median(seconds for _, _, seconds in starts)
    return results


def show(results: dict[str, Any]) -> None:
    for key, value in results.items():
        print(f"{key:32} {value:,.2f}" if isinstance(value, float) else f"{key:32} {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--model", help="bundled model's name or a folder")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", action="store_true", help="the command line's memory and start, too")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure_speed(options.model, options.seconds, options.rounds)))
        return
    arguments = ["--seconds", str(options.seconds), "--rounds", str(options.rounds)]
    arguments += ["--model", options.model] if options.model else []
    results = in_fresh_process(arguments, {})
    raised = in_fresh_process(arguments, RAISED)
    results |= {f"{key}_raised": value for key, value in raised.items() if key.endswith(("real_time", "vs_encodec"))}
    if options.memory:
        results |= measure_memory(options.model)
    print(json.dumps(results, indent=1)) if options.json else show(results)


if __name__ == "__main__":
    main()
