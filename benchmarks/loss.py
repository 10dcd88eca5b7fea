"""PESQ and STOI against the share of packets that are lost, for audiovq and Opus, with and without concealment.

    python benchmarks/loss.py [--json] [--model NAME|DIR] [--packet 60] [--codebooks 4] [--opus 6,8,12] [--limit 12]
                              [--data debian_speech] [--split validation] [--rates 0,2,5,10,20]

Excerpts of a corpus, as `audiovq evaluate` takes them. Every system sends packets of ``--packet`` milliseconds; of each
excerpt the same ones are lost, drawn one by one by ``--rates`` per cent. Without concealment there is silence in the
place of a lost packet. Opus is libopus itself: VoIP, variable bit rate, wide band, and the encoder knows the loss rate;
its concealment is ``opus_decode`` without a packet. kb/s are payloads, and for audiovq also the whole file, whose
records carry checksums and lengths; a packet on a network has some 40 bytes of headers besides, whatever its codec.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import audiovq

RATE = 16000
OPUS_VOIP, OPUS_BITRATE, OPUS_LOSS, OPUS_BANDWIDTH, OPUS_LOOKAHEAD, WIDE_BAND = 2048, 4002, 4014, 4008, 4027, 1103


@dataclass
class System:
    """A codec at one rate.

    Attributes:
        name: for the table.
        code: samples (T,) and the packets that are lost (P,) bool -> with and without concealment (T,) each.
        n_bytes, file_bytes: coded so far, without and with the file around it (None: no file).
    """

    name: str
    code: Callable[[np.ndarray, np.ndarray, float], tuple[np.ndarray, np.ndarray]]
    n_bytes: int = 0
    file_bytes: int | None = None
    seconds: float = 0.0
    scores: dict[tuple[str, str, float], list[float]] = field(default_factory=dict)


def muted(samples: np.ndarray, lost: np.ndarray, size: int) -> np.ndarray:
    """Samples with silence where packets of ``size`` samples are lost."""
    return samples * ~np.repeat(lost, size)[: len(samples)]


def audiovq_system(codec: Any, n_codebooks: int, packet_ms: float) -> System:
    """This package's codec with ``n_codebooks``."""
    from audiovq.bitstream import save_encoded
    from audiovq.bitstream.speech_layout import pack_side

    frames = round(packet_ms * codec.frame_rate / 1000)
    known: dict[bytes, tuple[Any, list[Any]]] = {}

    def coded(samples: np.ndarray) -> tuple[Any, list[Any]]:
        key = samples.tobytes()
        if key not in known:
            encoded = codec.encode(samples, n_codebooks=n_codebooks, packet_frames=frames)
            packets = encoded.channel(0, codec).packets
            known[key] = encoded, packets
            file = io.BytesIO()
            save_encoded(encoded, file, codec)
            system.file_bytes = (system.file_bytes or 0) + file.getbuffer().nbytes
            bits = (codec.codebook_size - 1).bit_length()
            system.n_bytes += sum(len(pack_side([p])) + -(-p.codes.size * bits // 8) for p in packets)
            system.seconds += len(samples) / RATE
        return known[key]

    def code(samples: np.ndarray, lost: np.ndarray, percent: float) -> tuple[np.ndarray, np.ndarray]:
        encoded, packets = coded(samples)
        stream = codec.decoder_stream(encoded.speaker[0].numpy())
        pieces = [
            stream.push(None, packet.n_frames) if gone else stream.push(packet)
            for packet, gone in zip(packets, lost, strict=True)
        ]
        decoded = np.concatenate([*pieces, stream.finish(len(samples))])
        return decoded, muted(decoded, lost, frames * codec.hop_length)

    system = System(f"audiovq, {n_codebooks} codebooks", code)
    return system


class Opus:
    """libopus by ctypes.

    Raises:
        SystemExit: when the library is not installed, or refuses something.
    """

    def __init__(self) -> None:
        name = ctypes.util.find_library("opus")
        if name is None:
            raise SystemExit("libopus is not installed (Debian: libopus0)")
        self.library = ctypes.CDLL(name)
        for function in ("opus_encoder_create", "opus_decoder_create"):
            getattr(self.library, function).restype = ctypes.c_void_p

    def encode(self, samples: np.ndarray, kbps: float, size: int, loss_percent: float) -> tuple[list[bytes], int]:
        """Packets of ``size`` samples, and the delay of the decoded samples."""
        error = ctypes.c_int()
        state = ctypes.c_void_p(self.library.opus_encoder_create(RATE, 1, OPUS_VOIP, ctypes.byref(error)))
        for request, value in ((OPUS_BITRATE, round(1000 * kbps)), (OPUS_LOSS, round(loss_percent))):
            self.library.opus_encoder_ctl(state, request, ctypes.c_int(value))
        self.library.opus_encoder_ctl(state, OPUS_BANDWIDTH, ctypes.c_int(WIDE_BAND))
        delay = ctypes.c_int()
        self.library.opus_encoder_ctl(state, OPUS_LOOKAHEAD, ctypes.byref(delay))
        buffer, packets = ctypes.create_string_buffer(4000), []
        for start in range(0, len(samples), size):
            piece = np.zeros(size, np.float32)
            piece[: len(samples) - start] = samples[start : start + size]
            pointer = piece.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            n = self.library.opus_encode_float(state, pointer, size, buffer, len(buffer))
            if n < 0:
                raise SystemExit(f"libopus refuses packets of {1000 * size / RATE:g} ms (error {n})")
            packets.append(buffer.raw[:n])
        self.library.opus_encoder_destroy(state)
        return packets, delay.value

    def decode(self, packets: list[bytes], lost: np.ndarray, size: int, conceal: bool) -> np.ndarray:
        """Packets to samples; lost ones by Opus's concealment, or as silence."""
        error = ctypes.c_int()
        state = ctypes.c_void_p(self.library.opus_decoder_create(RATE, 1, ctypes.byref(error)))
        pieces = []
        for packet, gone in zip(packets, lost, strict=True):
            piece = np.zeros(size, np.float32)
            pointer = piece.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            if not gone:
                self.library.opus_decode_float(state, packet, len(packet), pointer, size, 0)
            elif conceal:
                self.library.opus_decode_float(state, None, 0, pointer, size, 0)
            pieces.append(piece)
        self.library.opus_decoder_destroy(state)
        return np.concatenate(pieces)

    def system(self, kbps: float, packet_ms: float) -> System:
        """Opus at ``kbps``."""
        size = round(packet_ms * RATE / 1000)

        def code(samples: np.ndarray, lost: np.ndarray, percent: float) -> tuple[np.ndarray, np.ndarray]:
            # A packet more, which is never lost, holds the end that the delay pushes out.
            packets, delay = self.encode(np.pad(samples, (0, size)), kbps, size, percent)
            gone = np.pad(lost, (0, len(packets) - len(lost)))
            system.n_bytes += sum(len(packet) for packet in packets)
            system.seconds += len(samples) / RATE
            decoded = [self.decode(packets, gone, size, conceal) for conceal in (True, False)]
            return decoded[0][delay:][: len(samples)], decoded[1][delay:][: len(samples)]

        system = System(f"Opus {kbps:g}", code)
        return system


def measure(systems: list[System], excerpts: list[np.ndarray], packet_ms: float, percents: list[float]) -> None:
    """Score every system on every excerpt at every loss rate."""
    from audiovq.evaluation.metrics import PESQ, STOI
    from audiovq.evaluation.protocol import Pair

    metrics, size = (PESQ(), STOI()), round(packet_ms * RATE / 1000)
    for number, samples in enumerate(excerpts):
        draws = np.random.default_rng([7, number]).random(-(-len(samples) // size))
        for percent in percents:
            lost = draws < percent / 100  # what is lost at a low rate is also lost at a higher one
            for system in systems:
                for label, decoded in zip(("concealed", "silence"), system.code(samples, lost, percent), strict=True):
                    if not percent and label == "silence":
                        continue
                    pair = Pair(str(number), samples, decoded)
                    for metric in metrics:
                        score = metric.score(pair)
                        if score is not None:
                            system.scores.setdefault((metric.name, label, percent), []).append(score.value)


def summary(system: System, percents: list[float]) -> dict[str, Any]:
    """Means of the scores, and their differences to those without loss."""
    result: dict[str, Any] = {
        "system": system.name,
        "kbps": 8 * system.n_bytes / system.seconds / 1000,
        "file_kbps": None if system.file_bytes is None else 8 * system.file_bytes / system.seconds / 1000,
    }
    for metric in ("pesq", "stoi"):
        whole = float(np.mean(system.scores[metric, "concealed", percents[0]]))
        result[metric] = whole
        for label in ("concealed", "silence"):
            result[f"{metric}_{label}"] = {
                f"{percent:g}": float(np.mean(system.scores[metric, label, percent])) - whole
                for percent in percents[1:]
            }
    return result


def show(results: list[dict[str, Any]], percents: list[float]) -> None:
    """A table for each metric."""
    for metric, digits in (("pesq", 2), ("stoi", 3)):
        heads = "".join(f"{percent:g} %".rjust(9) for percent in percents[1:])
        print(f"\n{metric.upper():28}{'kb/s':>7}{'file':>7}{'no loss':>9}{heads}   (differences to no loss)")
        for result in results:
            for label in ("concealed", "silence"):
                file = "" if result["file_kbps"] is None else f"{result['file_kbps']:.2f}"
                numbers = "".join(f"{value:+9.{digits}f}" for value in result[f"{metric}_{label}"].values())
                name = f"{result['system']}, {label}"
                print(f"{name:30}{result['kbps']:5.2f}{file:>7}{result[metric]:9.{digits}f}{numbers}")


def main() -> None:
    from audiovq.data.corpora import open_corpora
    from audiovq.evaluation.protocol import join_utterances, sample_excerpts

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", help="bundled model's name or a folder")
    parser.add_argument("--packet", type=float, default=60.0, help="milliseconds of a packet")
    parser.add_argument("--codebooks", default="", help="of audiovq, with commas; default: the model's")
    parser.add_argument("--opus", default="6,8,12", help="kb/s of Opus, with commas")
    parser.add_argument("--data", default="debian_speech")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--limit", type=int, default=12, help="excerpts")
    parser.add_argument("--rates", default="0,2,5,10,20", help="per cent of packets lost, the first one 0")
    options = parser.parse_args()
    percents = [float(one) for one in options.rates.split(",")]
    codec: Any = audiovq.SpeechCodec.from_pretrained(options.model).eval()
    books = [int(one) for one in options.codebooks.split(",") if one] or [codec.default_n_codebooks]
    systems = [audiovq_system(codec, n, options.packet) for n in books]
    opus = Opus()
    systems += [opus.system(float(kbps), options.packet) for kbps in options.opus.split(",") if kbps]
    chosen = sample_excerpts(join_utterances(open_corpora([options.data], options.split)), options.limit)
    measure(systems, [excerpt.load() for excerpt in chosen], options.packet, percents)
    results = [summary(system, percents) for system in systems]
    if options.json:
        about = {name: value for name, value in vars(options).items() if name != "json"}
        print(json.dumps({**about, "model": codec.name, "results": results}, indent=1))
    else:
        show(results, percents)


if __name__ == "__main__":
    main()
