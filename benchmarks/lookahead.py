"""What a bounded look-ahead costs: recordings coded and decoded with less and less of it.

    python benchmarks/lookahead.py RECORDING... [--model NAME|DIR] [--codebooks 4] [--packet 80]
                                   [--ahead 200:100,160:80,120:60,80:40] [--json]

``--ahead`` are pairs of the encoder's and the decoder's look-ahead in milliseconds, `whole:whole` is always among them.
Each is compared with the recording by PESQ-WB and by mel distance, and with the model's own packets and the whole
look-ahead by mel distance and by the shares of equal content codes and pitch codes. Speaker vectors are those of the
whole recordings. Needs the extra ``eval``.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from audiovq.cli.loading import Models
from audiovq.evaluation.metrics import PESQ, log_mel
from audiovq.evaluation.protocol import Pair
from audiovq.interfaces import Packet
from audiovq.media.waveform import open_audio, resample


def read(path: str, rate: int) -> np.ndarray:
    """The first channel of a recording at the codec's rate."""
    with open_audio(path) as audio:
        samples = np.concatenate([block[:, 0] for block in audio.blocks()])
        return resample(samples, audio.sample_rate, rate)


def encode(
    codec: Any, samples: np.ndarray, n_codebooks: int, frames: int | None, speaker: Any, ahead: int | None
) -> tuple[list[Packet], np.ndarray]:
    """Packets and speaker vector."""
    stream = codec.encoder_stream(n_codebooks, frames, speaker, ahead)
    return stream.push(samples) + stream.finish(), stream.speaker


def decode(codec: Any, packets: list[Packet], speaker: np.ndarray, n_samples: int, ahead: int | None) -> np.ndarray:
    """(T,) samples."""
    stream = codec.decoder_stream(speaker, lookahead=ahead)
    return np.concatenate([*(stream.push(packet) for packet in packets), stream.finish(n_samples)])


def tracks(packets: list[Packet]) -> np.ndarray:
    """(2, F): content codes and pitch codes."""
    return np.concatenate([np.stack([packet.codes[0], packet.pitch]) for packet in packets], axis=1)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of the logarithmic mel spectrograms."""
    return float(np.abs(log_mel(one) - log_mel(other)).mean())


def frames_of(text: str, frame_rate: float) -> int | None:
    """Milliseconds, or "whole" -> frames, or None."""
    return None if text == "whole" else round(float(text) * frame_rate / 1000)


def compare(codec: Any, recordings: list[np.ndarray], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Means over the recordings by look-ahead."""
    pesq, n = PESQ(), options.codebooks
    references = []
    for samples in recordings:
        packets, speaker = encode(codec, samples, n, None, None, None)
        references.append((tracks(packets), speaker, decode(codec, packets, speaker, len(samples), None)))
    frames, found = frames_of(str(options.packet), codec.frame_rate), {}
    for pair in ("whole:whole", *options.ahead.split(",")):
        encoder, decoder = (frames_of(text, codec.frame_rate) for text in pair.split(":"))
        rows = []
        for samples, (codes, speaker, whole) in zip(recordings, references, strict=True):
            packets, _ = encode(codec, samples, n, frames, speaker, encoder)
            decoded = decode(codec, packets, speaker, len(samples), decoder)
            score = pesq.score(Pair("", samples, decoded))
            equal = (tracks(packets) == codes).mean(axis=1)
            rows.append(
                [score.value if score else np.nan, distance(samples, decoded), distance(whole, decoded), *equal]
            )
        names = ("pesq", "mel", "mel_to_whole", "content_equal", "pitch_equal")
        found[pair] = dict(zip(names, np.nanmean(rows, axis=0).round(3).tolist(), strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--model", default="speech")
    parser.add_argument("--codebooks", type=int, default=4)
    parser.add_argument("--packet", type=float, default=80, help="ms")
    parser.add_argument("--ahead", default="200:100,160:80,120:60,80:40", help="pairs in ms, with commas")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    codec = Models(threads=1).load(options.model)
    found = compare(codec, [read(path, codec.sample_rate) for path in options.recordings], options)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for pair, values in found.items():
        print(f"{pair:14s}", "  ".join(f"{name} {value:.3f}" for name, value in values.items()))


if __name__ == "__main__":
    main()
