"""The speech codec on PyTorch and on ONNX Runtime: parity and speed.

    python benchmarks/engines.py [--model NAME|DIR] [--audio FILE] [--packet 80,4000] [--json]

The model is exported to a temporary folder. ``parity`` is the share of frames with the same codes of all codebooks and
pitch on both engines, and the largest difference of samples that are decoded from the same codes. ``real_time_factor``
is CPU seconds for a second of audio in this process, on one thread, the best of three passes, with all codebooks.
``command`` are whole processes, ``audiovq encode`` and ``audiovq decode`` of the first three seconds, the best of
three: CPU seconds, seconds by the clock (a busy machine adds to these), and peak memory in MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from audiovq.codec.codec import SpeechCodec
from audiovq.codec.onnx_codec import OnnxCodec
from audiovq.codec.onnx_export import export_onnx
from audiovq.hub import model_folder
from audiovq.media.waveform import resample

RECORDING = Path(__file__).resolve().parent.parent / "recipes" / "demo" / "speech.flac"
PASSES = 3


def encode(codec: Any, samples: np.ndarray, packet_frames: int) -> tuple[np.ndarray, list[Any]]:
    """Speaker vector and packets with all codebooks."""
    stream = codec.encoder_stream(codec.n_codebooks, packet_frames)
    packets = stream.push(samples) + stream.finish()
    return stream.speaker, packets


def decode(codec: Any, speaker: np.ndarray, packets: list[Any], n_samples: int) -> np.ndarray:
    """Samples."""
    stream = codec.decoder_stream(speaker)
    return np.concatenate([*(stream.push(packet) for packet in packets), stream.finish(n_samples)])


def best_of(passes: int, work: Callable[[], Any]) -> float:
    """CPU seconds of the fastest pass, after one that is not counted."""
    work()
    seconds = []
    for _ in range(passes):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def compare(codecs: dict[str, Any], samples: np.ndarray, packet_frames: int) -> dict[str, Any]:
    """Parity and real-time factors with packets of one length."""
    coded = {name: encode(codec, samples, packet_frames) for name, codec in codecs.items()}
    speaker, packets = coded["torch"]
    rows = [np.concatenate([np.vstack([p.codes, p.pitch]) for p in own], axis=1) for _, own in coded.values()]
    sound = [decode(codec, speaker, packets, len(samples)) for codec in codecs.values()]
    seconds = len(samples) / codecs["torch"].sample_rate
    factors = {
        name: {
            "encode": best_of(PASSES, lambda own=codec: encode(own, samples, packet_frames)) / seconds,
            "decode": best_of(PASSES, lambda own=codec: decode(own, speaker, packets, len(samples))) / seconds,
        }
        for name, codec in codecs.items()
    }
    return {
        "parity": {
            "frames with the same codes": float((rows[0] == rows[1]).all(axis=0).mean()),
            "largest difference of samples": float(np.abs(sound[0] - sound[1]).max()),
            "same speaker vector": bool(np.array_equal(speaker, coded["onnx"][0])),
        },
        "real_time_factor": factors,
    }


#: Runs a command in a small process: the peak of a process includes that of the one that it was forked from.
MEASURE = """
import json, resource, subprocess, sys, time
begin = time.perf_counter()
subprocess.run([sys.executable, "-m", "audiovq", *sys.argv[1:]], check=True, stderr=subprocess.DEVNULL)
seconds, usage = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
cpu_seconds = usage.ru_utime + usage.ru_stime
print(json.dumps({"cpu_seconds": cpu_seconds, "seconds": seconds, "peak_mb": usage.ru_maxrss / 1024}))
"""


def run(*arguments: str) -> dict[str, float]:
    """CPU seconds, seconds by the clock and peak memory of one ``audiovq`` process."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def commands(folder: Path, samples: np.ndarray, sample_rate: int) -> dict[str, Any]:
    """Whole processes on three seconds; ``folder`` has the weights and the export."""
    soundfile.write(folder / "x.wav", samples[: 3 * sample_rate], sample_rate)
    wav, coded, decoded = (str(folder / name) for name in ("x.wav", "x.avq", "y.wav"))
    found: dict[str, Any] = {}
    for engine in ("torch", "onnx"):
        rest = ("-f", "--model", str(folder), "--engine", engine)
        steps = {"encode": ("encode", wav, "-o", coded, *rest), "decode": ("decode", coded, "-o", decoded, *rest)}
        found[engine] = {
            name: min((run(*step) for _ in range(PASSES)), key=lambda one: one["cpu_seconds"])
            for name, step in steps.items()
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="bundled model or folder")
    parser.add_argument("--audio", type=Path, default=RECORDING)
    parser.add_argument("--packet", default="80,4000", help="milliseconds of packets, with commas")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = model_folder(options.model)
    codec = SpeechCodec.from_pretrained(source)
    samples, rate = soundfile.read(options.audio, dtype="float32")
    samples = resample(samples if samples.ndim == 1 else samples.mean(1), rate, codec.sample_rate)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        folder.mkdir()
        for path in source.iterdir():
            if path.is_file():
                (folder / path.name).symlink_to(path.resolve())
        export_onnx(codec, folder, folder)
        codecs = {"torch": codec, "onnx": OnnxCodec.from_pretrained(folder)}
        sizes = {ms: round(float(ms) * codec.frame_rate / 1000) for ms in options.packet.split(",")}
        found: dict[str, Any] = {f"packets of {ms} ms": compare(codecs, samples, n) for ms, n in sizes.items()}
        found["command"] = commands(folder, samples, codec.sample_rate)
    print(json.dumps(found, indent=2) if options.json else "\n".join(lines(found)))


def lines(found: dict[str, Any], before: str = "") -> list[str]:
    """One line for each figure."""
    rows = []
    for name, value in found.items():
        label = f"{before}, {name}" if before else name
        shown = f"{value:.4g}" if isinstance(value, float) else value
        rows += lines(value, label) if isinstance(value, dict) else [f"{label}: {shown}"]
    return rows


if __name__ == "__main__":
    main()
