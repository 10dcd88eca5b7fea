"""How far live speech is behind: the look-ahead of each part of the codec, the delay of a chain, and its speed.

    python benchmarks/latency.py [--model NAME|DIR] [--packet 80,200] [--seconds 10] [--clock [--rate 16000]] [--json]

``look-ahead`` are the samples behind a frame that each part needs, from the model. ``behind`` is measured: pieces of
20 ms go through an encoder stream and a decoder stream (speaker vector known beforehand, pitch kept), and what has gone
in is compared with what has come out, at the end of each piece; the clock plays no part. ``real_time_factor`` is CPU
seconds for a second of audio, on one thread. All of it once with the whole look-ahead, once bounded as by
``audiovq convert --live``. ``--clock`` feeds `audiovq convert - -o -` with raw samples as fast as a microphone gives
them and measures with the clock when each comes out; a busy machine adds to that. Without ``--live`` the command gets
the first second while it loads, which is not measured.
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
from audiovq.conversion.files import LIVE_DECODER, LIVE_ENCODER
from audiovq.media.waveform import resample

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


def measure(codec: Any, samples: np.ndarray, packet_frames: int, speaker: np.ndarray, bounded: bool) -> dict[str, Any]:
    """Delay and speed of an encoder and a decoder one behind the other."""
    ahead = [round(seconds * codec.frame_rate) for seconds in (LIVE_ENCODER, LIVE_DECODER)] if bounded else [None, None]
    encoder = codec.encoder_stream(codec.conversion_codebooks, packet_frames, speaker, ahead[0])
    decoder = codec.decoder_stream(speaker, lookahead=ahead[1])
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


def live(options: argparse.Namespace, samples: np.ndarray, packet: int, bounded: bool) -> dict[str, float]:
    """Delay of the command line by the clock, from giving a sample to getting it."""
    rate = options.rate
    samples = resample(samples, 16000, rate)
    data = np.round(samples.clip(-1, 1) * 32767).astype("<i2").tobytes()
    command = [sys.executable, "-m", "audiovq", "convert", "-", "--raw", "s16le", "--rate", str(rate), "-o", "-"]
    command += ["--model", options.model, "--packet", str(packet), *["--live"] * bounded]
    with tempfile.TemporaryDirectory() as folder:
        voice = Path(folder) / "voice.wav"
        soundfile.write(voice, samples, rate)
        command += ["--to", str(voice), "--from", str(voice)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stderr is not None
        lead = 0 if bounded else rate  # samples that are given while the model loads, and are not measured
        process.stdin.write(data[: 2 * lead])
        process.stdin.flush()
        came: list[tuple[float, int]] = []
        reader = threading.Thread(target=_read, args=(process.stdout, came))
        reader.start()
        while not came if lead else b"ready" not in process.stderr.readline():
            time.sleep(0.05)
        start, size = time.perf_counter(), round(0.02 * rate)
        for position in range(lead, len(samples), size):
            time.sleep(max(start + (position + size - lead) / rate - time.perf_counter(), 0))
            process.stdin.write(data[2 * position : 2 * (position + size)])
            process.stdin.flush()
        process.stdin.close()
        process.stderr.read()
        reader.join()
        process.wait()
    # Sample n >= lead was given at start + (n - lead) / rate.
    firsts = [0, *(count for _, count in came)]
    delays = [
        when - (start + (first - lead) / rate)
        for (when, count), first in zip(came, firsts, strict=False)
        if lead <= first and count < len(samples) - rate
    ]
    found = {"first": delays[0], "median": float(np.median(delays)), "max": max(delays)}
    return {f"clock_ms_{name}": 1000 * seconds for name, seconds in found.items()}


def _read(stream: Any, came: list[tuple[float, int]]) -> None:
    """Note when samples come, and how many have come by then."""
    count = 0
    while block := stream.read1(1 << 16):
        count += len(block) // 2
        came.append((time.perf_counter(), count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="speech")
    parser.add_argument("--packet", default="80,200", help="lengths of packets in ms, with commas")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clock", action="store_true")
    parser.add_argument("--rate", type=int, default=16000, help="Hz of what goes through the pipe")
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
        found[f"{packet} ms"] = {"look-ahead": parts(codec, frames)}
        for name, bounded in (("all of it", False), ("bounded, as by --live", True)):
            values = measure(codec, samples, frames, speaker, bounded)
            found[f"{packet} ms"][name] = values | (live(options, samples, packet, bounded) if options.clock else {})
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for packet, groups in found.items():
        for group, values in groups.items() if isinstance(groups, dict) else ():
            print(f"packets of {packet}, {group}")
            for part, value in values.items():
                print(f"  {part:34s} {value:8.3f}" if "factor" in part else f"  {part:34s} {value:8.1f}")


if __name__ == "__main__":
    main()
