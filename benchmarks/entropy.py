"""What entropy coding saves, measured on files of the test split, and what it costs in time.

    python benchmarks/entropy.py [--json] [--corpus debian_speech] [--model NAME|DIR] [--rounds 15] [--limit N]

Savings: 1, 2, 4 and 8 codebooks, sizes of whole files (header, checksums and all) with and without entropy coding;
``utterances``: each utterance a file (they last some two seconds), ``stretches``: a speaker's utterances joined to six
seconds, as `audiovq evaluate` does, ``voices``: all that a speaker says in one file. Every file is read again and
compared. Beside them bits a code: ``ideal``, what the model's integers give the codes of the utterances;
``restarting`` and ``running``: the integers on the voices' codes, starting anew with every packet as files do, and not.

Times: coding ten seconds of test speech from WAV to .avq with four codebooks and back, with and without entropy coding
in turns, processor time on one thread; the median of the turns' ratios.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import statistics
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

CODEBOOKS = (1, 2, 4, 8)


def file_size(encoded: Any, codec: Any, n_codebooks: int, entropy_coding: bool) -> int:
    """Bytes of the file of one item; a coded one is read again and compared."""
    import torch

    from audiovq.bitstream import load_encoded, save_encoded

    part = replace(encoded, codes=encoded.codes[:, :n_codebooks])
    out = io.BytesIO()
    save_encoded(part, out, codec, entropy_coding)
    if entropy_coding:
        found = load_encoded(io.BytesIO(out.getvalue()), codec)
        assert torch.equal(found.codes, part.codes)
        assert torch.equal(found.speaker, part.speaker)
    return out.getbuffer().nbytes


def savings(codec: Any, groups: dict[str, list[Any]]) -> dict[str, Any]:
    """Shares of the bytes saved, by number of codebooks and by kind of files."""
    results: dict[str, Any] = {}
    for n_codebooks in (n for n in CODEBOOKS if n <= codec.n_codebooks):
        entry: dict[str, Any] = {}
        for name, items in groups.items():
            sizes = [sum(file_size(item, codec, n_codebooks, coded) for item in items) for coded in (False, True)]
            entry[name] = {"files": len(items), "packed_bytes": sizes[0], "bytes": sizes[1]}
            entry[name]["saving"] = round(1 - sizes[1] / sizes[0], 4)
        results[str(n_codebooks)] = entry
    return results


def ideals(codec: Any, coder: Any, groups: dict[str, list[Any]]) -> dict[str, Any]:
    """Bits a code, by number of codebooks."""
    results: dict[str, Any] = {}
    for n in (n for n in CODEBOOKS if n <= codec.n_codebooks):
        entry = {"ideal": mean_bits(coder, groups["utterances"], n, codec.packet_frames)}
        entry["restarting"] = mean_bits(coder, groups["voices"], n, codec.packet_frames)
        entry["running"] = mean_bits(coder, groups["voices"], n, 1 << 30)
        results[str(n)] = entry
    return results


def mean_bits(coder: Any, items: list[Any], n_codebooks: int, packet_frames: int) -> float:
    """Bits a code that the integers give, restarting after every ``packet_frames``."""
    total, count = 0.0, 0
    for item in items:
        codes = item.codes[0, :n_codebooks].numpy()
        voiced = None if item.pitch is None else (item.pitch[0] > 0).numpy()
        for start in range(0, codes.shape[1], packet_frames):
            stretch = slice(start, start + packet_frames)
            total += coder.bits(codes[:, stretch], None if voiced is None else voiced[stretch])
        count += codes.size
    return round(total / count, 4)


def overheads(codec: Any, waveform: np.ndarray, rounds: int) -> dict[str, float]:
    """Time with entropy coding over time without, with four codebooks, and microseconds a code."""
    import soundfile

    from audiovq.bitstream import decode_file, encode_file

    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, 16000, format="WAV")
    wav, n_codes = buffer.getvalue(), 4 * -(-len(waveform) // codec.hop_length)
    times: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for turn, coded in itertools.product(range(rounds + 2), (False, True)):
        avq, out = io.BytesIO(), io.BytesIO()
        start = time.process_time()
        encode_file(io.BytesIO(wav), avq, codec, 4, entropy_coding=coded)
        middle = time.process_time()
        decode_file(io.BytesIO(avq.getvalue()), out, codec)
        end = time.process_time()
        if turn >= 2:  # two turns warm up
            times["encode", coded].append(middle - start)
            times["decode", coded].append(end - middle)
    results = {}
    for what in ("encode", "decode"):
        pairs = list(zip(times[what, True], times[what, False], strict=True))
        results[f"{what}_more_time"] = round(statistics.median(a / b for a, b in pairs) - 1, 4)
        results[f"{what}_us_per_code"] = round(1e6 * statistics.median(a - b for a, b in pairs) / n_codes, 2)
    return results


def test_items(codec: Any, corpus: str, limit: int) -> tuple[dict[str, list[Any]], np.ndarray]:
    """The test split as coded items of the three kinds, and ten seconds of it as a waveform."""
    import torch

    from audiovq.data.corpora import open_corpus
    from audiovq.evaluation.protocol import join_utterances

    utterances = open_corpus(corpus, "test")[: limit or None]
    by_voice = defaultdict(list)
    for utterance in utterances:
        by_voice[utterance.speaker].append(utterance.load())
    waveforms = {
        "utterances": [u.load() for u in utterances],
        "stretches": [excerpt.load() for excerpt in join_utterances(utterances)],
        "voices": [np.concatenate(parts) for parts in by_voice.values()],
    }
    n = codec.n_codebooks
    groups = {
        name: [codec.encode([torch.from_numpy(waveform)], n_codebooks=n) for waveform in found]
        for name, found in waveforms.items()
    }
    longest = max(waveforms["voices"], key=len)
    return groups, np.resize(longest, 10 * codec.sample_rate)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--corpus", default="debian_speech")
    parser.add_argument("--model", help="a bundled model's name or a folder")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--limit", type=int, default=0, help="test utterances; 0: all")
    options = parser.parse_args()

    import torch

    from audiovq import SpeechCodec
    from audiovq.bitstream.entropy import coder_for

    torch.set_num_threads(1)
    codec = SpeechCodec.from_pretrained(options.model)
    coder = coder_for(codec)
    if coder is None:
        raise SystemExit(f"model {codec.name} has no entropy model: run recipes/speech/entropy.py")
    groups, waveform = test_items(codec, options.corpus, options.limit)
    results: dict[str, Any] = {"model": codec.model_hash.hex(), "saving": savings(codec, groups)}
    results["bits_per_code"] = ideals(codec, coder, groups)
    results |= overheads(codec, waveform, options.rounds)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
