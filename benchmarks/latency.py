"""How far live speech is behind: the look-ahead of each part of the codec, the delay of a chain, and its speed.

    python benchmarks/latency.py [--model NAME|DIR] [--packet 80,200] [--seconds 10] [--live] [--json]

``parts`` are the samples behind a frame that each part needs, from the model. ``behind`` is measured: pieces of 20 ms
go through an encoder stream and a decoder stream (speaker vector known beforehand, pitch kept), and what has gone in is
compared with what has come out, at the end of each piece; the clock plays no part. ``real_time_factor`` is CPU seconds
for a second of audio, on one thread. ``--live`` feeds `audiovq convert - -o -` with raw samples as fast as a microphone
gives them and measures with the clock when each comes out; a busy machine adds to that.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from audiovq.codec.codec import SpeechCodec

PIECE = 320
RECORDING = Path(__file__).resolve().parent.parent / "recipes" / "demo" / "speech.flac"


def parts(codec: Any, packet_frames: int) -> dict[str, float]:
    """Milliseconds of each part that a packet's first sample waits for."""
    frame = 1000 * codec.hop_length / codec.sample_rate
    encoder, decoder = codec.encoder, codec.decoder
    return {
        "packet": packet_frames * frame,
        "encoder, content trunk": encoder.content.context_frames * frame,
        "encoder, detail trunk": encoder.detail.context_frames * frame,
        "encoder, the larger of the two": encoder.context_frames * frame,
        "harmonic source of the encoder": frame,
        "pitch tracker": codec.pitch.context_frames * frame,
        "decoder": decoder.context_frames * frame,
        "decoder, convolutions alone": decoder.backbone.reach * frame,
    }


def measure(codec: Any, samples: np.ndarray, packet_frames: int, speaker: np.ndarray) -> dict[str, float]:
    """Delay and speed of an encoder and a decoder one behind the other."""
    encoder = codec.encoder_stream(codec.n_codebooks, packet_frames, speaker)
    decoder = codec.decoder_stream(speaker)
    given, behind, seconds = 0, [], {"encode": 0.0, "decode": 0.0}
    for start in range(0, len(samples), PIECE):
        piece = samples[start : start + PIECE]
        begin = time.process_time()
        packets = encoder.push(piece)
        middle = time.process_time()
        # What waits longest is what was not out when the piece had come in.
        behind.append(start + len(piece) - given)
        given += sum(len(decoder.push(packet)) for packet in packets)
        seconds["encode"] += middle - begin
        seconds["decode"] += time.process_time() - middle
    rate, total = codec.sample_rate, len(samples) / codec.sample_rate
    result = {"behind_ms": 1000 * max(behind) / rate}
    return result | {f"real_time_factor_{name}": value / total for name, value in seconds.items()}


def live(model: str, samples: np.ndarray, rate: int, packet: int) -> dict[str, float]:
    """Delay of the command line by the clock, from giving a sample to getting it."""
    with tempfile.TemporaryDirectory() as folder:
        voice = Path(folder) / "voice.wav"
        soundfile.write(voice, samples, rate)
        command = [sys.executable, "-m", "audiovq", "convert", "-", "--raw", "s16le", "--rate", str(rate), "-o", "-"]
        command += ["--model", model, "--to", str(voice), "--from", str(voice), "--packet", str(packet)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdin is not None
        assert process.stdout is not None
        data = np.round(samples * 32767).astype("<i2").tobytes()
        process.stdin.write(data[: 2 * rate])  # the model loads meanwhile: the first second is not measured
        process.stdin.flush()
        came: list[tuple[float, int]] = []

        def read() -> None:
            count = 0
            while block := process.stdout.read1(1 << 16):  # type: ignore[union-attr]
                count += len(block) // 2
                came.append((time.perf_counter(), count))

        reader = threading.Thread(target=read)
        reader.start()
        while not came:
            time.sleep(0.05)
        start = time.perf_counter()
        for position in range(rate, len(samples), PIECE):
            time.sleep(max(start + (position + PIECE - rate) / rate - time.perf_counter(), 0))
            process.stdin.write(data[2 * position : 2 * (position + PIECE)])
            process.stdin.flush()
        process.stdin.close()
        reader.join()
        process.wait()
    # Sample n > rate was given at start + (n - rate) / rate.
    ends = [(when, count) for when, count in came if rate < count < len(samples) - rate]
    before = [count for _, count in came if count <= rate][-1:] or [0]
    firsts = [before[0], *(count for _, count in ends[:-1])]
    delays = [when - (start + (first - rate) / rate) for (when, _), first in zip(ends, firsts, strict=True)]
    return {"live_ms_median": 1000 * float(np.median(delays)), "live_ms_max": 1000 * max(delays)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="speech")
    parser.add_argument("--packet", default="80,200", help="lengths of packets in ms, with commas")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    codec = SpeechCodec.from_pretrained(options.model)
    samples, rate = soundfile.read(RECORDING, dtype="float32")
    samples = np.tile(samples, int(options.seconds * rate / len(samples)) + 1)[: int(options.seconds * rate)]
    stretch = samples[: codec.packet_frames * codec.hop_length]
    speaker = codec.encode(torch.from_numpy(stretch)).speaker[0].numpy()
    found: dict[str, Any] = {"model": codec.name}
    for packet in (int(text) for text in options.packet.split(",")):
        frames = round(packet / 1000 * codec.frame_rate)
        found[f"{packet} ms"] = {"parts": parts(codec, frames)} | measure(codec, samples, frames, speaker)
        if options.live:
            found[f"{packet} ms"] |= live(options.model, samples, rate, packet)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for name, values in found.items():
        if isinstance(values, dict):
            print(f"packets of {name}")
            for part, value in {**values.pop("parts"), **values}.items():
                print(f"  {part:34s} {value:8.3f}" if "factor" in part else f"  {part:34s} {value:8.1f}")


if __name__ == "__main__":
    main()
