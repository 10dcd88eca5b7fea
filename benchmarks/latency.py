"""How far live speech is behind: the look-ahead of each part of the codec, and the delay and speed of conversion.

    python benchmarks/latency.py [--model NAME|DIR] [--engine auto] [--packet 80,200] [--seconds 10] [--rate 16000]
                                 [--clock] [--json]

``look-ahead`` is how far behind a frame each part needs samples, from the model. The rest is measured, once with the
whole look-ahead and once bounded as by ``audiovq convert --live``: raw samples in pieces of 20 ms, as a microphone
gives them, go through what `audiovq convert - -o -` does (reader, resamplers, streams, writer; the speaker's vector and
pitch are known).

``behind`` compares what has gone in at the end of a piece with what had come out before it; the clock plays no part.
``delay`` is the time from a sample at the microphone to the same sample at the output, for a processor that has nothing
else to do: pieces come on time, and computing takes the processor time that it took. A busy machine does not change it.
``real_time_factor`` is processor seconds for a second of audio. ``--clock`` starts the command itself, and measures by
the clock; a busy machine adds to that. Without ``--live`` it gets the first second while it loads, which is not
measured.
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

from audiovq.cli.loading import Models
from audiovq.codec.codec import SpeechCodec
from audiovq.conversion.files import convert_audio, make_conversion, warm_up
from audiovq.conversion.target import target_voice
from audiovq.media.samples import RawFormat
from audiovq.media.waveform import resample

PIECE_SECONDS = 0.02
RECORDING = Path(__file__).resolve().parent.parent / "recipes" / "demo" / "speech.flac"


def parts(model: str, packet_ms: float) -> dict[str, float]:
    """Milliseconds of each part that a packet's first sample waits for."""
    codec = SpeechCodec.from_pretrained(model)
    frame = 1000 * codec.hop_length / codec.sample_rate
    encoder, decoder = codec.encoder, codec.decoder
    assert encoder.content is not None
    return {
        "packet": packet_ms,
        "encoder, content trunk": encoder.content.context_frames * frame,
        "encoder, detail trunk": encoder.detail.context_frames * frame,
        "encoder, the larger of the two": encoder.context_frames * frame,
        "harmonic source of the encoder": frame,
        "pitch tracker": codec.pitch.context_frames * frame,
        "decoder": decoder.context_frames * frame,
        "decoder, convolutions alone": decoder.backbone.reach * frame,
    }


class Pipe:
    """A microphone and a loudspeaker, 16 bits a sample, at the two ends of a process that has a processor to itself.

    ``now`` runs on with the processor time of the process, and goes to the next piece's time when that is waited for.
    """

    def __init__(self, data: bytes, rate: int) -> None:
        self._data, self._rate, self._size = data, rate, 2 * round(PIECE_SECONDS * rate)
        self._read = self._written = 0
        self.now, self._since = 0.0, time.process_time()
        self.behind: list[float] = []  # samples that had gone in and not come out when a piece was asked for, in ms
        self.delays: list[float] = []  # of what came out

    def _run(self) -> None:
        used = time.process_time()
        self.now, self._since = self.now + used - self._since, used

    def read1(self, size: int) -> bytes:
        """All pieces that have been spoken; the next one is waited for if there is none."""
        self._run()
        self.now = max(self.now, (self._read + self._size) / 2 / self._rate)
        spoken = int(self.now * self._rate * 2 + 1e-6) // self._size * self._size
        data = self._data[self._read : min(spoken, self._read + size)]
        self._read += len(data)
        if data:
            self.behind.append(1000 * (self._read - self._written) / 2 / self._rate)
        self._since = time.process_time()
        return data

    read = read1

    def write(self, data: bytes) -> int:
        """Note when samples come out: the first of them has waited longest."""
        self._run()
        if data and self._read < len(self._data):
            self.delays.append(1000 * (self.now - self._written / 2 / self._rate))
        self._written += len(data)
        return len(data)

    def flush(self) -> None:
        """There is nothing to flush."""

    def seekable(self) -> bool:
        return False


def measure(codec: Any, recording: Path, samples: np.ndarray, rate: int, frames: int, live: bool) -> dict[str, float]:
    """Delay and speed of a conversion through a `Pipe`."""
    voice = target_voice(codec, [str(recording)])
    data, raw = to_bytes(samples), RawFormat("s16le", rate, 1)
    warm_up(codec, make_conversion(voice, "auto", voice, live), None, frames)
    pipe = Pipe(data, rate)
    start = time.process_time()
    conversion = make_conversion(voice, "auto", voice, live)
    books = codec.conversion_codebooks
    convert_audio(pipe, pipe, codec, conversion, books, raw=raw, raw_target=raw, packet_frames=frames)  # type: ignore[arg-type]
    used = time.process_time() - start
    return {
        "behind_ms": max(pipe.behind),
        "delay_ms_median": float(np.median(pipe.delays)),
        "delay_ms_max": max(pipe.delays),
        "real_time_factor": used * rate / len(samples),
    }


def to_bytes(samples: np.ndarray) -> bytes:
    """(T,) -> 16 bits a sample."""
    return np.round(samples.clip(-1, 1) * 32767).astype("<i2").tobytes()


def clock(
    options: argparse.Namespace, recording: Path, samples: np.ndarray, packet: float, live: bool
) -> dict[str, float]:
    """Delay of the command line by the clock, from giving a sample to getting it."""
    rate, data = options.rate, to_bytes(samples)
    command = [sys.executable, "-m", "audiovq", "convert", "-", "--raw", "s16le", "--rate", str(rate), "-o", "-"]
    command += ["--model", options.model, "--engine", options.engine, "--packet", str(packet), *["--live"] * live]
    command += ["--to", str(recording), "--from", str(recording)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    lead = 0 if live else rate  # samples that are given while the model loads, and are not measured
    process.stdin.write(data[: 2 * lead])
    process.stdin.flush()
    came: list[tuple[float, int]] = []
    reader = threading.Thread(target=_read, args=(process.stdout, came))
    reader.start()
    while not came if lead else b"ready" not in process.stderr.readline():
        time.sleep(0.05)
    start, size = time.perf_counter(), round(PIECE_SECONDS * rate)
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
        1000 * (when - (start + (first - lead) / rate))
        for (when, count), first in zip(came, firsts, strict=False)
        if lead <= first and count < len(samples) - rate
    ]
    return {"clock_ms_median": float(np.median(delays)), "clock_ms_max": max(delays)}


def _read(stream: Any, came: list[tuple[float, int]]) -> None:
    """Note when samples come, and how many have come by then."""
    count = 0
    while block := stream.read1(1 << 16):
        count += len(block) // 2
        came.append((time.perf_counter(), count))


def figures(options: argparse.Namespace, recording: Path, samples: np.ndarray) -> dict[str, Any]:
    """All figures, by packet and look-ahead."""
    codec = Models(threads=1, engine=options.engine).load(options.model)
    found: dict[str, Any] = {}
    for packet in (float(text) for text in options.packet.split(",")):
        frames = round(packet / 1000 * codec.frame_rate)
        found[f"packets of {packet:g} ms, look-ahead"] = parts(options.model, packet)
        for name, live in (("the whole look-ahead", False), ("bounded, as by --live", True)):
            values = measure(codec, recording, samples, options.rate, frames, live)
            values |= clock(options, recording, samples, packet, live) if options.clock else {}
            found[f"packets of {packet:g} ms, {name}"] = values
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="speech")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--packet", default="80,200", help="lengths of packets in ms, with commas")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=int, default=16000, help="Hz of what goes through the pipe")
    parser.add_argument("--clock", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    samples, rate = soundfile.read(RECORDING, dtype="float32")
    samples = resample(np.resize(samples, int(options.seconds * rate)), rate, options.rate)
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "speech.wav"
        soundfile.write(recording, samples, options.rate)
        found = figures(options, recording, samples)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for group, values in found.items():
        print(group)
        for name, value in values.items():
            print(f"  {name:34s} {value:8.3f}" if "factor" in name else f"  {name:34s} {value:8.1f}")


if __name__ == "__main__":
    main()
